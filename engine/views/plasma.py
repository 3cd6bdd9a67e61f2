"""Plasma fractals: random fields that are smooth at a large scale and rough at a small one, and what they do to images.

Shapes: N fields of S x S pixels, S a power of two and one more; B images of C x H x W.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from engine.transfer import to_device


def diamond_square_(noise_NSS: Tensor, roughness_N: Tensor) -> Tensor:
    """Turn noise into plasma fields, in place, all of them at once; what is in [0, 1] stays there.

    The corners stay noise. Then, from the whole field's square to single pixels, the middle of every square, and then
    that of every edge, becomes a mixture: the mean of its four nearest (three on the border), and noise. The noise's
    part is the roughness at the first size, and a power higher at each next.

    Source: Fournier, Fussell & Carpenter 1982; the mixture is that of kornia, where the original adds noise.
    """
    step, part_N11 = noise_NSS.shape[1] - 1, torch.ones_like(roughness_N)[:, None, None]
    while step > 1:
        half, part_N11 = step // 2, part_N11 * roughness_N[:, None, None]
        corners, middles = noise_NSS[:, ::step, ::step], noise_NSS[:, half::step, half::step]
        pairs = corners[:, :-1] + corners[:, 1:]
        _settle_(middles, (pairs[:, :, :-1] + pairs[:, :, 1:]) / 4, part_N11)
        for field in (noise_NSS, noise_NSS.transpose(1, 2)):
            corners, middles = field[:, ::step, ::step], field[:, half::step, half::step]
            ends, count = corners[:, :, :-1] + corners[:, :, 1:], 2 + _beside(torch.ones_like(middles[:1]))
            _settle_(field[:, ::step, half::step], (ends + _beside(middles)) / count, part_N11)
        step = half
    return noise_NSS


def _settle_(pixels: Tensor, mean: Tensor, part_N11: Tensor) -> None:
    pixels.copy_(torch.lerp(mean, pixels, part_N11))


def _beside(middles: Tensor) -> Tensor:
    """Return, for every edge between two rows of squares or on the border, the sum of its squares' middles."""
    return pad(middles, (0, 0, 1, 0)) + pad(middles, (0, 0, 0, 1))


def plasma_like(images_BCHW: Tensor, roughness_B: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a plasma field for every channel of every image: [B, C, H, W]."""
    batch, channels, height, width = images_BCHW.shape
    side = 2 ** (max(height, width) - 2).bit_length() + 1
    noise = to_device(torch.rand(batch * channels, side, side, generator=generator), images_BCHW.device)
    fields = diamond_square_(noise, roughness_B.repeat_interleave(channels))
    return fields.view(batch, channels, side, side)[:, :, :height, :width]


def add_plasma(images_BCHW: Tensor, roughness_B: Tensor, intensity_B: Tensor, *, generator: torch.Generator) -> Tensor:
    """Brighten and darken images by as much as their intensity, from place to place."""
    plasma = plasma_like(images_BCHW, roughness_B, generator)
    return (images_BCHW + intensity_B[:, None, None, None] * (2 * plasma - 1)).clamp(0, 1)


def multiply_plasma(images_BCHW: Tensor, roughness_B: Tensor, *, generator: torch.Generator) -> Tensor:
    """Multiply the contrast of images, around half grey, by up to 4 from place to place."""
    return ((images_BCHW - 0.5) * 4 * plasma_like(images_BCHW, roughness_B, generator) + 0.5).clamp(0, 1)
