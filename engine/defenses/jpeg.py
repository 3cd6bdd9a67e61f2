"""JPEG: images are compressed and decoded again, which rounds away what an eye would not miss.

Name: JPEG compression (Image Shortcut Squeezing)
Paper: Liu, Zhao & Larson, "Image Shortcut Squeezing: Countering Perturbative Availability Poisons with Compression",
    ICML 2023 (JPEG-10).
Threat model: takes the poison for imperceptible, hence for what compression discards.
Official code: liuzrcc/ImageShortcutSqueezing, augmentations.py, which compresses with Pillow before the crop.
Deviations: none known: Pillow compresses and decodes, with its standard tables and chroma at half the resolution.
    Values are rounded to eight bits first; no gradient passes. Pillow works on the CPU, image after image: at a
    position other than the data set a GPU waits for it at every step, for a fifth of a millisecond a small image.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Defense
from engine.spec import ImageDefenseSpec, Position

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Spec(ImageDefenseSpec):
    """JPEG compression; the default position is where the official code compresses."""

    kind: Literal["jpeg"]
    position: Position = "dataset"
    # On Pillow's scale, whose documentation advises against more than 95. Official code: 10.
    quality: Annotated[int, Field(ge=1, le=95)] = 10


def recode(images_B3HW: Tensor, generator: torch.Generator, *, quality: int) -> Tensor:
    """Compress every image and decode it again; nothing is drawn."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch

    from engine.transfer import to_device
    from engine.views.eight_bit import as_levels

    pixels_BHW3 = as_levels(images_B3HW).to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets other threads run while it compresses
        recoded = np.stack(list(pool.map(partial(_recode, quality=quality), pixels_BHW3)))
    levels_B3HW = torch.from_numpy(recoded).permute(0, 3, 1, 2).contiguous()
    return to_device(levels_B3HW, images_B3HW.device).float() / 255


def _recode(pixels_HW3: np.ndarray, *, quality: int) -> np.ndarray:
    import io

    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels_HW3).save(stream, format="JPEG", quality=quality)
    return np.asarray(Image.open(stream, formats=("JPEG",)))


def build(spec: Spec) -> Defense:
    """Build the defense."""
    from engine.training.defending import ImageDefense

    return ImageDefense(partial(recode, quality=spec.quality), spec.position)
