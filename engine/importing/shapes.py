"""What shapes a released poison may have, given the clean images."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from engine.importing.found import ImportFault
from engine.protocols import ImageSet


def channels_first(values: Tensor, clean: ImageSet, source: Path) -> Tensor:
    """Return values as [n, 3, H, W], n images or classes; channels may have come last.

    Raises:
        ImportFault: they fit neither.
    """
    count, shape = len(clean), tuple(clean.images_u8.shape[1:])
    last = (*shape[1:], shape[0])
    if values.ndim != 4 or not 0 < len(values) <= count:
        raise ImportFault(
            f"{source} has the shape {tuple(values.shape)}; expected one row an image, {(count, *shape)}, "
            f"or one a class, {(len(clean.class_names), *shape)}"
        )
    if tuple(values.shape[1:]) == shape:
        return values
    if tuple(values.shape[1:]) == last:
        return values.permute(0, 3, 1, 2).contiguous()
    raise ImportFault(
        f"{source} is for images of shape {tuple(values.shape[1:])}, the clean images have {shape}, "
        f"or {last} with channels last"
    )


def bytes_allowed(clean: ImageSet) -> int:
    """Return how many bytes an array of a released poison may take: the clean images in doubles, and some room."""
    return 8 * math.prod(clean.images_u8.shape) + 2**20
