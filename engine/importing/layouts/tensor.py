"""One tensor: noise in pixel units (1 is the whole range), or eight-bit images.

Noise, floats [N, 3, H, W], [N, H, W, 3] or [classes, 3, H, W], is what AUE, AAP and TUE release. Images are uint8.

Source: EhanW/AUE-AAP, datasets/cifar.py, and renjie3/TUE, utils.py (both: noise times 255, added, clipped, cut to eight
    bits).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engine.importing.found import Found, ImportFault
from engine.importing.pickles import load
from engine.importing.shapes import channels_first
from engine.protocols import ImageSet


def read(source: Path, clean: ImageSet) -> Found:
    """Read the tensor."""
    content = load(source)
    if not isinstance(content, Tensor):
        kind = type(content).__name__
        raise ImportFault(f"{source} holds a {kind}, expected one tensor; a checkpoint is read with --layout official")
    if content.dtype != torch.uint8 and not content.is_floating_point():
        raise ImportFault(f"{source} holds {content.dtype}; expected floats (noise) or uint8 (images)")
    what = "images" if content.dtype == torch.uint8 else "noise"
    return Found(source, what, channels_first(content, clean, source))  # type: ignore[arg-type]
