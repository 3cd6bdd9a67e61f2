"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28 pixels in ten classes.

Name: Fashion-MNIST
Paper: Xiao, Rasul & Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", 2017.
Source: torchvision.datasets.FashionMNIST; FashionMNIST/raw/ in the data root.
Deviations: grey becomes RGB with three equal channels, and 28 x 28 is resized to ``image_size``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import RGB, DatasetSpec, Scale


class Spec(DatasetSpec):
    """Fashion-MNIST at the size of CIFAR's images."""

    kind: Literal["fashion_mnist"]
    num_classes: ClassVar[int] = 10
    whole: ClassVar[tuple[int, int]] = (60_000, 10_000)
    image_size: Annotated[int, Field(ge=8)] = 32
    # The statistics of the training images, rounded as they are usually given.
    mean: RGB = (0.2860, 0.2860, 0.2860)
    std: Scale = (0.3530, 0.3530, 0.3530)


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Read the data set; download it first where asked to.

    Raises:
        DatasetMissing: it is not in the data root.
    """
    from torchvision.datasets import FashionMNIST

    from engine.images import fetch, grey_to_rgb, prepare
    from engine.protocols import ImageSet

    halves = fetch(
        FashionMNIST,
        ({"train": True}, {"train": False}),
        name=spec.kind,
        root=root,
        folder="FashionMNIST/raw",
        download=download,
    )
    sets = [ImageSet(grey_to_rgb(half.data), half.targets.long(), tuple(half.classes)) for half in halves]
    return prepare(
        Split(*sets),
        image_size=spec.image_size,
        train_per_class=spec.train_per_class,
        test_per_class=spec.test_per_class,
        subset_seed=spec.subset_seed,
    )
