"""Digits: 1,797 handwritten digits of 8 x 8 pixels, which scikit-learn carries.

Name: Digits
Paper: Alpaydin & Kaynak, "Cascading Classifiers", Kybernetika 1998.
Source: sklearn.datasets.load_digits; no download.
Deviations: seventeen grey levels become eight-bit RGB, and 8 x 8 is resized to ``image_size``; the halves are
    drawn by class with ``subset_seed`` rather than by writer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import RGB, DatasetSpec, Scale


class Spec(DatasetSpec):
    """Digits, large enough for crops."""

    kind: Literal["digits"]
    num_classes: ClassVar[int] = 10
    image_size: Annotated[int, Field(ge=8)] = 16
    # The statistics of all 1,797 images at 8 x 8 pixels.
    mean: RGB = (0.3053, 0.3053, 0.3053)
    std: Scale = (0.3760, 0.3760, 0.3760)
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Return the digits, cut into halves."""
    import torch
    from sklearn.datasets import load_digits

    from engine.images import grey_to_rgb, hold_out, prepare
    from engine.protocols import ImageSet

    digits = load_digits()
    grey = (torch.from_numpy(digits.images) * 255 / 16).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    whole = ImageSet(grey_to_rgb(grey), labels, tuple(map(str, digits.target_names)))
    train, test = hold_out(whole, spec.test_fraction, seed=spec.subset_seed)
    return prepare(
        Split(train, test),
        image_size=spec.image_size,
        train_per_class=spec.train_per_class,
        test_per_class=spec.test_per_class,
        subset_seed=spec.subset_seed,
    )
