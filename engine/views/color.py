"""Colour jitter, grayscale and solarization with per-image strength and per-image order.

Brightness, contrast and saturation are one affine map of a pixel's three channels,
``f x + (1 - f) reference``, with the reference black, the image's mean grey, or the pixel's own grey. A batch
whose images are jittered in different orders therefore takes one expression per slot of the order. Constants are
Python numbers: a tensor made of them would have to be copied to a GPU, which waits for it.

Shapes: B images of 3 x H x W, RGB in [0, 1].
Source: Pillow, Blend.c, Convert.c (grey weights), and torchvision's functional adjust_* for the ranges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.perturbation import clip_unit

GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2 luma, as Pillow converts to "L"
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
PHASES = (5.0, 3.0, 1.0)


def luma(images_B3HW: Tensor) -> Tensor:
    """Return the luma of every pixel: [B, H, W]."""
    red, green, blue = images_B3HW.unbind(dim=1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def blend(images_B3HW: Tensor, operation_B: Tensor, factor_B: Tensor) -> Tensor:
    """Adjust brightness, contrast or saturation, chosen per image; factor 1 leaves an image as it is.

    The gradient flows through the mean of contrast as well.
    """
    factor, operation = factor_B[:, None, None], operation_B[:, None, None]
    grey_BHW = luma(images_B3HW)
    reference = torch.where(operation == CONTRAST, grey_BHW.mean(dim=(1, 2), keepdim=True), grey_BHW)
    shared = (1 - factor) * (operation != BRIGHTNESS) * reference
    return clip_unit(factor[:, None] * images_B3HW + shared[:, None])


def shift_hue(images_B3HW: Tensor, shift_B: Tensor) -> Tensor:
    """Rotate the hue, keeping HSV value and saturation.

    Where channels tie, the first of the largest and the last of the smallest receive the gradient.

    Units: shift in turns, [-0.5, 0.5].
    Source: the HSV hexagon of Smith 1978 in closed form: channel n is
        ``v - c max(0, min(k, 4 - k, 1))`` with ``k = (n + 6 h) mod 6`` and chroma c.
    """
    r, g, b = images_B3HW.unbind(dim=1)
    red, green = (r >= g) & (r >= b), (r < g) & (g >= b)
    value = torch.where(red, r, torch.where(green, g, b))
    lowest = torch.where((b <= r) & (b <= g), b, torch.where((g < b) & (g <= r), g, r))
    chroma = value - lowest
    across = torch.where(red, g - b, torch.where(green, b - r, r - g))
    sector = across / torch.where(chroma > 0, chroma, 1) + 2 * green + 4 * ~(red | green)
    turned = sector + 6 * shift_B[:, None, None]
    k = torch.remainder(torch.stack([turned + phase for phase in PHASES], dim=1), 6)
    return value[:, None] - chroma[:, None] * clip_unit(torch.minimum(k, 4 - k))


def to_grey(images_B3HW: Tensor) -> Tensor:
    """Replace every pixel's channels by its luma."""
    return luma(images_B3HW)[:, None].expand_as(images_B3HW)


def solarize(images_B3HW: Tensor, threshold: float | Tensor) -> Tensor:
    """Invert every value at or above a threshold, of all images or of each; the gradient there is -1."""
    return torch.where(images_B3HW < threshold, images_B3HW, 1 - images_B3HW)


def sample_orders(generator: torch.Generator, batch: int) -> Tensor:
    """Draw one uniform permutation of the four jitter operations per image: int64 [B, 4]."""
    return torch.rand(batch, 4, generator=generator).argsort(dim=1)
