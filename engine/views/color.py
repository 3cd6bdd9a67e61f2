"""Colour jitter, grayscale and solarization with per-image strength and per-image order.

Brightness, contrast and saturation are one affine map of a pixel's three channels,
``f x + (1 - f) reference``, with the reference black, the image's mean grey, or the pixel's own grey.
Each is therefore a 3 x 3 matrix and an offset per image, whatever the operation, and a batch whose images
are jittered in different orders still takes one matrix product per slot of the order.

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


def grey_weights(like: Tensor) -> Tensor:
    """Return the luma weights [3] with the type and device of a tensor."""
    return torch.tensor(GREY, dtype=like.dtype, device=like.device)


def luma(images_B3HW: Tensor) -> Tensor:
    """Return the luma of every pixel: [B, H, W]."""
    red, green, blue = images_B3HW.unbind(dim=1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def blend(images_B3HW: Tensor, operation_B: Tensor, factor_B: Tensor) -> Tensor:
    """Adjust brightness, contrast or saturation, chosen per image; factor 1 leaves an image as it is.

    The gradient flows through the mean of contrast as well.
    """
    batch, channels, height, width = images_B3HW.shape
    weights = grey_weights(images_B3HW)
    eye = torch.eye(channels, dtype=weights.dtype, device=weights.device)
    rest_B = 1 - factor_B
    own_grey_B33 = (rest_B * (operation_B == SATURATION))[:, None, None] * weights.expand(channels, channels)
    matrix_B33 = factor_B[:, None, None] * eye + own_grey_B33
    mean_grey_B = (images_B3HW.mean(dim=(2, 3)) * weights).sum(dim=1)
    offset_B = rest_B * (operation_B == CONTRAST) * mean_grey_B
    flat = torch.bmm(matrix_B33, images_B3HW.reshape(batch, channels, -1)) + offset_B[:, None, None]
    return clip_unit(flat.view(batch, channels, height, width))


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
    phases = torch.tensor(PHASES, dtype=turned.dtype, device=turned.device)
    k = torch.remainder(turned[:, None] + phases[:, None, None], 6)
    return value[:, None] - chroma[:, None] * clip_unit(torch.minimum(k, 4 - k))


def to_grey(images_B3HW: Tensor) -> Tensor:
    """Replace every pixel's channels by its luma."""
    return luma(images_B3HW)[:, None].expand_as(images_B3HW)


def solarize(images_B3HW: Tensor, threshold: float) -> Tensor:
    """Invert every value at or above a threshold; the gradient there is -1."""
    return torch.where(images_B3HW < threshold, images_B3HW, 1 - images_B3HW)


def sample_orders(generator: torch.Generator, batch: int) -> Tensor:
    """Draw one uniform permutation of the four jitter operations per image: int64 [B, 4]."""
    return torch.rand(batch, 4, generator=generator).argsort(dim=1)
