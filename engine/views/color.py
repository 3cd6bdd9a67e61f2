"""Colour jitter and grayscale with per-image strength and per-image order.

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


def grey_weights(like: Tensor) -> Tensor:
    """Return the luma weights [3] with the type and device of a tensor."""
    return torch.tensor(GREY, dtype=like.dtype, device=like.device)


def blend(images_B3HW: Tensor, operation_B: Tensor, factor_B: Tensor) -> Tensor:
    """Adjust brightness, contrast or saturation, chosen per image; factor 1 leaves an image as it is.

    The gradient flows through the mean of contrast as well.
    """
    batch, channels, height, width = images_B3HW.shape
    luma = grey_weights(images_B3HW)
    eye = torch.eye(channels, dtype=luma.dtype, device=luma.device)
    rest_B = 1 - factor_B
    own_grey_B33 = (rest_B * (operation_B == SATURATION))[:, None, None] * luma.expand(channels, channels)
    matrix_B33 = factor_B[:, None, None] * eye + own_grey_B33
    mean_grey_B = images_B3HW.mean(dim=(2, 3)) @ luma
    offset_B = rest_B * (operation_B == CONTRAST) * mean_grey_B
    flat = torch.bmm(matrix_B33, images_B3HW.reshape(batch, channels, -1)) + offset_B[:, None, None]
    return clip_unit(flat.view(batch, channels, height, width))


def shift_hue(images_B3HW: Tensor, shift_B: Tensor) -> Tensor:
    """Rotate the hue, keeping HSV value and saturation.

    Units: shift in turns, [-0.5, 0.5].
    Source: the HSV hexagon of Smith 1978 in closed form: channel n is
        ``v - c max(0, min(k, 4 - k, 1))`` with ``k = (n + 6 h) mod 6`` and chroma c.
    """
    red, green, blue = images_B3HW.unbind(dim=1)
    value = images_B3HW.amax(dim=1)
    chroma = value - images_B3HW.amin(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    turned = sector + 6 * shift_B[:, None, None]
    phase = torch.tensor([5.0, 3.0, 1.0], dtype=turned.dtype, device=turned.device)
    k = torch.remainder(turned[:, None] + phase[:, None, None], 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def to_grey(images_B3HW: Tensor) -> Tensor:
    """Replace every pixel's channels by its luma."""
    luma = grey_weights(images_B3HW)
    return torch.einsum("bchw,c->bhw", images_B3HW, luma)[:, None].expand_as(images_B3HW)


def sample_orders(generator: torch.Generator, batch: int) -> Tensor:
    """Draw one uniform permutation of the four jitter operations per image: int64 [B, 4]."""
    return torch.rand(batch, 4, generator=generator).argsort(dim=1)


def jitter(images_B3HW: Tensor, order_B4: Tensor, factors_B4: Tensor) -> Tensor:
    """Apply the four jitter operations, every image in its own order.

    Shapes: factors_B4 columns are brightness, contrast, saturation (1 leaves as is) and hue (0 does).
    """
    neutral = torch.ones_like(factors_B4[:, 0])
    for slot in range(4):
        operation_B = order_B4[:, slot]
        is_hue_B = operation_B == HUE
        factor_B = factors_B4.gather(1, operation_B[:, None]).squeeze(1)
        device = images_B3HW.device
        images_B3HW = blend(
            images_B3HW, operation_B.to(device), torch.where(is_hue_B, neutral, factor_B).to(images_B3HW)
        )
        turning = (is_hue_B & (factors_B4[:, HUE] != 0)).nonzero().squeeze(1)
        if len(turning):
            rows = turning.to(device)
            shift = factors_B4[turning, HUE].to(images_B3HW)
            images_B3HW = images_B3HW.index_copy(0, rows, shift_hue(images_B3HW[rows], shift))
    return images_B3HW
