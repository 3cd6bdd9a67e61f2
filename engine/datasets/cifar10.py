"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes.

Name: CIFAR-10
Paper: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
Source: torchvision.datasets.CIFAR10; cifar-10-batches-py/ in the data root.
Deviations: none; the means and deviations are those of He, Zha & Katabi's official code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import RGB, DatasetSpec, Scale


class Spec(DatasetSpec):
    """CIFAR-10, whole by default."""

    kind: Literal["cifar10"]
    num_classes: ClassVar[int] = 10
    whole: ClassVar[tuple[int, int]] = (50_000, 10_000)
    image_size: Annotated[int, Field(ge=8)] = 32
    mean: RGB = (0.4914, 0.4822, 0.4465)
    std: Scale = (0.2023, 0.1994, 0.2010)


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Read the data set; download it first where asked to.

    Raises:
        DatasetMissing: it is not in the data root.
    """
    import torch
    from torchvision.datasets import CIFAR10

    from engine.images import fetch, prepare
    from engine.protocols import ImageSet

    halves = fetch(
        CIFAR10,
        ({"train": True}, {"train": False}),
        name=spec.kind,
        root=root,
        folder="cifar-10-batches-py",
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
