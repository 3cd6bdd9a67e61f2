"""Cutout: a square of every image is painted over, so that no learner may rely on one place.

Name: Cutout
Paper: DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552,
    2017; He, Zha & Katabi, ICLR 2023, Table 8, row "Cutout" (one hole of 16x16).
Threat model: takes the poison for local.
Official code: uoguelph-mlrg/Cutout, util/cutout.py.
Deviations: a hole is painted in pixel range, with ``fill``; the original sets it to zero after normalisation, which
    is the mean of the data set, and the default is CIFAR-10's. A hole with an odd side has that side; halves
    are rounded down in the original's, so that one pixel is missing. (Its first revision cut squares of twice the
    length.) Unverified: how He et al. filled theirs, and where in the chain they cut it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Defense
from engine.spec import ImageDefenseSpec, Positive, Unit

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Spec(ImageDefenseSpec):
    """Cutout."""

    kind: Literal["cutout"]
    holes: Positive = 1
    # Fraction of the image's shorter side. Paper: 16 of 32 for CIFAR-10, 8 for CIFAR-100.
    size_rel: Annotated[float, Field(gt=0, le=1)] = 0.5
    # The zero of the official code's normalisation: CIFAR-10's mean.
    fill: tuple[Unit, Unit, Unit] = (0.4914, 0.4822, 0.4465)


def cut_out(
    images_B3HW: Tensor, generator: torch.Generator, *, holes: int, size_rel: float, fill: tuple[float, float, float]
) -> Tensor:
    """Paint squares over, around pixels that are drawn uniformly: they hang over the border, and may overlap."""
    import torch

    from engine.transfer import to_device

    batch, _, height, width = images_B3HW.shape
    side, device = max(1, round(size_rel * min(height, width))), images_B3HW.device

    def inside(length: int) -> Tensor:
        """Return which places of an axis each hole covers: [holes, B, length]."""
        first = torch.randint(length, (holes, batch, 1), generator=generator) - side // 2
        distance = torch.arange(length, device=device) - to_device(first, device)
        return (distance >= 0) & (distance < side)

    rows, columns = inside(height), inside(width)
    is_cut_BHW = (rows[:, :, :, None] & columns[:, :, None, :]).any(dim=0)
    paint = to_device(torch.tensor(fill), device)[:, None, None]
    return torch.where(is_cut_BHW[:, None], paint, images_B3HW)


def build(spec: Spec) -> Defense:
    """Build the defense."""
    from engine.training.defending import ImageDefense

    change = partial(cut_out, holes=spec.holes, size_rel=spec.size_rel, fill=spec.fill)
    return ImageDefense(change, spec.position)
