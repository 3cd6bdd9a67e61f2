"""Augmentation so strong that shortcuts drown in it: plasma, shuffled channels, and one colour operation.

Shapes: B images of 3 x H x W, RGB in [0, 1].
Source: Qin et al. 2023 (UEraser), official code, whose numbers these are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from engine.views.arithmetic import on_some
from engine.views.color import blend, solarize
from engine.views.plasma import add_plasma, multiply_plasma

PROBABILITY = 0.5  # of either plasma and of the shuffle
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.5, 1.0)
FACTOR = (0.1, 1.9)  # of brightness, contrast and saturation
BLENDS = 3  # the operations of ``engine.views.color.blend`` are the first ones
SOLARIZE, POSTERIZE, STRETCH, OPERATIONS = range(BLENDS, BLENDS + 4)


def erase(images_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Augment every image: plasma brightness, plasma contrast, shuffled channels, one colour operation."""
    batch = len(images_B3HW)
    brightened, contrasted, shuffled = torch.rand(3, batch, generator=generator) < PROBABILITY
    roughness_2B = torch.empty(2, batch).uniform_(*ROUGHNESS, generator=generator)
    intensity_B = torch.empty(batch).uniform_(*INTENSITY, generator=generator)
    images = on_some(brightened, images_B3HW, partial(add_plasma, generator=generator), roughness_2B[0], intensity_B)
    images = on_some(contrasted, images, partial(multiply_plasma, generator=generator), roughness_2B[1])
    order_B3 = torch.rand(batch, 3, generator=generator).argsort(dim=1)
    images = on_some(shuffled, images, shuffle_channels, order_B3)
    return recolour(images, generator)


def shuffle_channels(images_B3HW: Tensor, order_B3: Tensor) -> Tensor:
    """Put the channels of every image into an order of its own."""
    return images_B3HW.gather(1, order_B3[:, :, None, None].expand_as(images_B3HW))


def recolour(images_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Apply one of six operations to every image, drawn uniformly, at a strength drawn uniformly.

    Source: Müller & Hutter 2021 (TrivialAugment): its operations on colours, but for equalization.
    """
    batch = len(images_B3HW)
    operation = torch.randint(OPERATIONS, (batch,), generator=generator)
    factor = torch.empty(batch).uniform_(*FACTOR, generator=generator)
    threshold = torch.rand(batch, generator=generator)
    levels = 2.0 ** torch.randint(1, 5, (batch,), generator=generator)
    images = on_some(operation < BLENDS, images_B3HW, blend, operation, factor)
    images = on_some(operation == SOLARIZE, images, solarize, threshold[:, None, None, None])
    images = on_some(operation == POSTERIZE, images, posterize, levels)
    return on_some(operation == STRETCH, images, stretch)


def posterize(images_B3HW: Tensor, levels_B: Tensor) -> Tensor:
    """Round to eight bits and keep the highest, which leave so many levels, as Pillow does."""
    share = levels_B[:, None, None, None] / 256
    return ((images_B3HW * 255).round() * share).floor() / share / 255


def stretch(images_B3HW: Tensor) -> Tensor:
    """Stretch every channel to the whole range; a flat one stays as it is."""
    low, high = images_B3HW.amin(dim=(2, 3), keepdim=True), images_B3HW.amax(dim=(2, 3), keepdim=True)
    is_flat = high <= low
    return torch.where(is_flat, images_B3HW, (images_B3HW - low) / (high - low + is_flat))
