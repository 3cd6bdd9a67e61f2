"""What becomes of images that are saved, resized or cropped on their way to who trains on them.

Shapes: uint8 [N, 3, H, W], before and after.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Change = Callable[["Image.Image"], "Image.Image"]


def saved(image: Image.Image, *, format: str, quality: int) -> Image.Image:
    """Return an image as it comes back from a lossy file."""
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, format=format, quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, *, factor: float) -> Image.Image:
    """Return an image that was made smaller and put back to its size, both with Pillow's bicubic filter."""
    from PIL import Image

    width, height = (max(1, round(factor * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, *, factor: float) -> Image.Image:
    """Return the middle of an image, enlarged to its size."""
    from PIL import Image

    width, height = image.size
    left, top = round((1 - factor) / 2 * width), round((1 - factor) / 2 * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, width - left, height - top))


CHANGES: dict[str, Change] = {
    **{f"JPEG {quality}": partial(saved, format="JPEG", quality=quality) for quality in (90, 75, 50)},
    **{f"WebP {quality}": partial(saved, format="WEBP", quality=quality) for quality in (90, 75, 50)},
    **{f"resized to {factor:.0%} and back": partial(resized, factor=factor) for factor in (0.75, 0.5)},
    "cropped to 90%": partial(cropped, factor=0.9),
}
"""By the name under which a report shows it."""


def change(images_u8: Tensor, how: Change) -> Tensor:
    """Change every image."""
    import numpy as np
    import torch
    from PIL import Image

    pixels = images_u8.permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([np.asarray(how(Image.fromarray(image))) for image in pixels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2)
