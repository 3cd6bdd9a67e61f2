"""Grayscale: images lose their colours, and with them every shortcut that lies in a colour.

Name: Grayscale (Image Shortcut Squeezing)
Paper: Liu, Zhao & Larson, "Image Shortcut Squeezing: Countering Perturbative Availability Poisons with Compression",
    ICML 2023.
Threat model: takes the poison for a matter of colours, which the paper finds for the smooth perturbations of barely
    trained surrogates.
Official code: liuzrcc/ImageShortcutSqueezing, augmentations.py (torchvision's Grayscale with three channels).
Deviations: none known. The luma is Pillow's, in whole grey levels, in all three channels; values are rounded to eight
    bits first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.protocols import Defense
from engine.spec import ImageDefenseSpec, Position

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Spec(ImageDefenseSpec):
    """Grayscale; the default position is where the official code has it, before the crop."""

    kind: Literal["grayscale"]
    position: Position = "dataset"


def drop_colour(images_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Replace every pixel by its luma; nothing is drawn."""
    from engine.views.eight_bit import to_grey

    return to_grey(images_B3HW)


def build(spec: Spec) -> Defense:
    """Build the defense."""
    from engine.training.defending import ImageDefense

    return ImageDefense(drop_colour, spec.position)
