"""Noise in units of the budget, as the official code of Contrastive Poisoning saves it.

A bare tensor [N, 3, H, W] or [classes, 3, H, W], or a checkpoint that holds it as ``["model"]["delta"]``, beside an
encoder, optimizers and pickled options.

Source: kaiwenzha/contrastive-poisoning, main.py (set_model, train_contrastive_poisoning), util.py (save_model) and
    model.py (initialize_delta, forward).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from engine.importing.found import Found, ImportFault
from engine.importing.pickles import load
from engine.importing.shapes import channels_first
from engine.protocols import ImageSet

NAMES = ("delta", "module.delta")


def read(source: Path, clean: ImageSet) -> Found:
    """Read the noise; that code keeps it within -1 and 1 at every step."""
    content = load(source, _noise)
    if not isinstance(content, Tensor) or not content.is_floating_point():
        raise ImportFault(
            f"{source} holds neither a tensor of floats nor a checkpoint with one at ['model']['delta']; "
            "noise in pixel units is read with --layout tensor"
        )
    return Found(source, "noise", channels_first(content, clean, source), unit="budget")


def _noise(content: Any) -> Any:
    """Return the tensor, or what stands where a checkpoint holds it."""
    if not isinstance(content, dict):
        return content
    weights = content.get("model", content)
    return next((weights[name] for name in NAMES if isinstance(weights, dict) and name in weights), None)
