"""CIFAR-100: 60,000 photographs of 32 x 32 pixels in a hundred classes.

Name: CIFAR-100
Paper: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
Source: torchvision.datasets.CIFAR100; cifar-100-python/ in the data root.
Deviations: none; the means and deviations are those of He, Zha & Katabi's official code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import RGB, DatasetSpec, Scale


class Spec(DatasetSpec):
    """CIFAR-100, whole by default."""

    kind: Literal["cifar100"]
    num_classes: ClassVar[int] = 100
    whole: ClassVar[tuple[int, int]] = (50_000, 10_000)
    image_size: Annotated[int, Field(ge=8)] = 32
    mean: RGB = (0.5071, 0.4867, 0.4408)
    std: Scale = (0.2675, 0.2565, 0.2761)


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Read the data set; download it first where asked to.

    Raises:
        DatasetMissing: it is not in the data root.
    """
    import torch
    from torchvision.datasets import CIFAR100

    from engine.images import fetch, prepare
    from engine.protocols import ImageSet

    halves = fetch(
        CIFAR100,
        ({"train": True}, {"train": False}),
        name=spec.kind,
        root=root,
        folder="cifar-100-python",
        download=download,
    )
    sets = [
        ImageSet(torch.from_numpy(half.data).permute(0, 3, 1, 2), torch.tensor(half.targets), tuple(half.classes))
        for half in halves
    ]
    return prepare(
        Split(*sets),
        image_size=spec.image_size,
        train_per_class=spec.train_per_class,
        test_per_class=spec.test_per_class,
        subset_seed=spec.subset_seed,
    )
