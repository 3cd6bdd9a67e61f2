"""What a thief may get of a protected image: the file as it is, or one that was compressed or resized on its way.

All work at full size, on uint8 [H, W, 3].
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

RELEASED, HALF = "released", "half_released"
"""The files as they are, all of them; the originals in place of every second one."""


def recompress(image_u8: np.ndarray, quality: int) -> np.ndarray:
    """Return an image after JPEG, with the colours at half the resolution, as most programs write it."""
    buffer = io.BytesIO()
    Image.fromarray(image_u8).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resize_and_back(image_u8: np.ndarray) -> np.ndarray:
    """Return an image after it was made half as wide and half as high, and as large as before again (bicubic)."""
    image = Image.fromarray(image_u8)
    half = (max(1, round(image.width / 2)), max(1, round(image.height / 2)))
    return np.asarray(image.resize(half, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC))


VARIANTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    RELEASED: lambda image_u8: image_u8,
    "jpeg_75": lambda image_u8: recompress(image_u8, 75),
    "jpeg_50": lambda image_u8: recompress(image_u8, 50),
    "resized": resize_and_back,
}
"""By the name under which a verdict knows them."""
