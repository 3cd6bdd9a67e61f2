"""STL-10: 5,000 training and 8,000 test photographs of 96 x 96 pixels in ten classes.

Name: STL-10
Paper: Coates, Lee & Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", AISTATS 2011.
Source: torchvision.datasets.STL10; stl10_binary/ in the data root.
Deviations: the 100,000 unlabelled images are left out, as in He, Zha & Katabi 2023, who probe on it only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import RGB, DatasetSpec, Scale

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class Spec(DatasetSpec):
    """STL-10's labelled images; an encoder of CIFAR is probed on them with ``image_size: 32``."""

    kind: Literal["stl10"]
    num_classes: ClassVar[int] = 10
    whole: ClassVar[tuple[int, int]] = (5_000, 8_000)
    image_size: Annotated[int, Field(ge=8)] = 96
    # The statistics of the labelled training images, rounded as they are usually given.
    mean: RGB = (0.4467, 0.4398, 0.4066)
    std: Scale = (0.2603, 0.2566, 0.2713)


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Read the data set; download it first where asked to.

    Raises:
        DatasetMissing: it is not in the data root.
    """
    import torch
    from torchvision.datasets import STL10

    from engine.images import fetch, prepare
    from engine.protocols import ImageSet

    halves = fetch(
        STL10,
        ({"split": "train"}, {"split": "test"}),
        name=spec.kind,
        root=root,
        folder="stl10_binary",
        download=download,
    )
    sets = [ImageSet(torch.from_numpy(half.data), torch.from_numpy(half.labels).long(), CLASSES) for half in halves]
    return prepare(
        Split(*sets),
        image_size=spec.image_size,
        train_per_class=spec.train_per_class,
        test_per_class=spec.test_per_class,
        subset_seed=spec.subset_seed,
    )
