"""Noise made at the working size, laid over images of any size.

Between the pixels of the working size noise is interpolated bilinearly. Each value at full size is then a convex
combination of values inside the budget, hence inside it too; rounding to whole grey levels keeps it there.

Shapes: S x S the working size, H x W an image's own; images uint8 [H, W, 3], as Pillow gives them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 1 << 20  # pixels worked on at a time; only memory depends on it


def interpolation_matrix(size: int, length: int) -> Tensor:
    """Return the weights [length, size] with which values along a side make those along a longer or shorter one.

    Rows are not negative and sum to one. Where the side becomes shorter, they are antialiased.
    """
    if size == length:
        return torch.eye(size)
    identity = torch.eye(size)[None, None]  # a row of the result's transpose is what becomes of one value
    return F.interpolate(identity, size=(size, length), mode="bilinear", antialias=True)[0, 0].T.contiguous()


def protect_image(image_u8: np.ndarray, levels_3SS: Tensor, *, bound: int) -> np.ndarray:
    """Return an image with noise of the working size laid over it; no value changes by more than the bound.

    Beside the image and the result only ``STRIP`` pixels are held.

    Units: levels and bound in grey levels.

    Raises:
        ValueError: the noise itself is over the bound.
    """
    if int(levels_3SS.int().abs().max()) > bound:
        raise ValueError(f"noise of {int(levels_3SS.int().abs().max())} grey levels is over the budget of {bound}")
    height, width = image_u8.shape[:2]
    down, across = (interpolation_matrix(levels_3SS.shape[-1], side) for side in (height, width))
    wide_3SW = levels_3SS.float() @ across.T
    result = np.empty_like(image_u8)
    for start in range(0, height, rows := max(1, STRIP // width)):
        part = slice(start, min(start + rows, height))
        delta_HW3 = (down[part] @ wide_3SW).round().clamp(-bound, bound).permute(1, 2, 0).to(torch.int16)
        result[part] = (image_u8[part].astype(np.int16) + delta_HW3.numpy()).clip(0, 255)
    return result


def max_difference(one_u8: np.ndarray, other_u8: np.ndarray) -> int:
    """Return the largest difference of two images, in grey levels."""
    return int((np.maximum(one_u8, other_u8) - np.minimum(one_u8, other_u8)).max())
