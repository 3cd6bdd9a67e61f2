"""A NumPy archive: ``images`` uint8 [N, H, W, 3], and where they are there ``labels``, ``index`` [N], ``class_names``.

What ``engine export`` writes. There may be noise instead, floats in pixel units, called ``delta`` or ``noise``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from engine.importing.arrays import load
from engine.importing.found import Found, ImportFault
from engine.importing.shapes import bytes_allowed, channels_first
from engine.protocols import ImageSet

NAMES = ("images", "delta", "noise", "labels", "index", "class_names")


def read(source: Path, clean: ImageSet) -> Found:
    """Read the archive."""
    arrays = load(source, NAMES, most_bytes=bytes_allowed(clean))
    values = next((arrays[name] for name in NAMES[:3] if name in arrays), None)
    if values is None:
        raise ImportFault(f"{source} holds no array called images, delta or noise")
    is_images = values.dtype == np.uint8
    if not is_images and values.dtype not in (np.float16, np.float32, np.float64):
        raise ImportFault(f"{source} holds {values.dtype}; expected uint8 (images) or floats (noise)")
    labels, places = (_integers(arrays.get(name), name, source) for name in ("labels", "index"))
    names = arrays.get("class_names", np.array([], dtype=str))
    if names.ndim != 1 or not np.issubdtype(names.dtype, np.str_):
        raise ImportFault(f"{source}: class_names is {names.dtype} of shape {names.shape}, expected text, one a class")
    tensor = channels_first(torch.from_numpy(values.copy()), clean, source)
    what: Literal["images", "noise"] = "images" if is_images else "noise"
    return Found(source, what, tensor, labels=labels, places=places, class_names=tuple(names.tolist()))


def _integers(array: np.ndarray | None, name: str, source: Path) -> torch.Tensor | None:
    if array is None:
        return None
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ImportFault(f"{source}: {name} is {array.dtype} of shape {array.shape}, expected integers, one an image")
    return torch.from_numpy(array.astype(np.int64))
