"""Images to measure on. Real ones are not shipped; what is timed here does not depend on what they show.

Shapes: N images of 3 x S x S pixels.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.protocols import ImageSet
from engine.randomness import stream

CLASSES = 10


def smooth_images(count: int, size: int) -> Tensor:
    """Return random smooth images in [0, 1], some of their colours saturated: clipped lights, darks and primaries."""
    draws = stream(0, "benchmarks", f"images of {size}")
    coarse = 0.5 + 0.35 * torch.randn(count, 3, 6, 6, generator=draws)
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


def photo_like(count: int, size: int) -> Tensor:
    """Return smooth images with finer structure, and in each a patch of a fully saturated colour with sharp edges."""
    draws = stream(0, "benchmarks", f"photographs of {size}")
    fine = F.interpolate(torch.randn(count, 3, 20, 20, generator=draws), size=(size, size), mode="bicubic")
    images = (smooth_images(count, size) + 0.06 * fine).clamp(0, 1)
    pure = torch.tensor([each for each in itertools.product((0.0, 1.0), repeat=3) if 0 < sum(each) < 3])
    side = size // 4
    images[:, :, side : 2 * side, side : 2 * side] = pure[torch.arange(count) % len(pure)][:, :, None, None]
    return images


def as_u8(images_N3SS: Tensor) -> Tensor:
    """Round to eight bits."""
    return (images_N3SS * 255).round().to(torch.uint8)


def image_set(images_u8: Tensor) -> ImageSet:
    """Give images labels in turn."""
    labels = torch.arange(len(images_u8)) % CLASSES
    return ImageSet(images_u8, labels, tuple(str(label) for label in range(CLASSES)))
