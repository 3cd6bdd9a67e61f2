"""Bit depth reduction: of every value only the highest bits are kept, and a perturbation of the lower ones is lost.

Name: Bit depth reduction (Image Shortcut Squeezing)
Paper: Liu, Zhao & Larson, "Image Shortcut Squeezing: Countering Perturbative Availability Poisons with Compression",
    ICML 2023; before, against adversarial examples: Xu, Evans & Qi, "Feature Squeezing", NDSS 2018.
Threat model: takes the poison for smaller than a step of the coarse grey levels.
Official code: liuzrcc/ImageShortcutSqueezing, augmentations.py (torchvision's RandomPosterize, at every image).
Deviations: none known. As in Pillow's posterize, lower bits become zero, so that images get darker; feature squeezing
    rounds to evenly spaced levels from black to white instead. Values are rounded to eight bits first; no gradient
    passes. Unverified: that the paper's results are with 2 bits; the official code has no default.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Defense
from engine.spec import ImageDefenseSpec, Position

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Spec(ImageDefenseSpec):
    """Bit depth reduction; the default position is where the official code has it, before the crop."""

    kind: Literal["bit_depth"]
    position: Position = "dataset"
    bits: Annotated[int, Field(ge=1, le=7)] = 2


def keep_bits(images_BCHW: Tensor, generator: torch.Generator, *, bits: int) -> Tensor:
    """Keep the highest bits of every value; nothing is drawn."""
    from engine.views.eight_bit import as_levels

    step = 2 ** (8 - bits)
    return (as_levels(images_BCHW) / step).floor() * step / 255


def build(spec: Spec) -> Defense:
    """Build the defense."""
    from engine.training.defending import ImageDefense

    return ImageDefense(partial(keep_bits, bits=spec.bits), spec.position)
