"""Noise in units of the budget, as the official code of Contrastive Poisoning saves it.

A bare tensor [N, 3, H, W] or [classes, 3, H, W], or a checkpoint that holds it as ``["model"]["delta"]``, beside an
encoder, optimizers and pickled options.

Source: kaiwenzha/contrastive-poisoning, main.py (set_model) and model.py.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from engine.importing.found import Found, ImportFault
from engine.importing.pickles import load
from engine.importing.shapes import channels_first
from engine.protocols import ImageSet

NAMES = ("delta", "module.delta")


def read(source: Path, clean: ImageSet) -> Found:
    """Read the noise; that code clips it to the budget when it adds it, and so does this."""
    content = load(source)
    if isinstance(content, dict):
        weights = content.get("model", content)
        found = [weights[name] for name in NAMES if isinstance(weights, dict) and name in weights]
        content = found[0] if found else None
    if not isinstance(content, Tensor) or not content.is_floating_point():
        raise ImportFault(
            f"{source} holds neither a tensor of floats nor a checkpoint with one at ['model']['delta']; "
            "noise in pixel units is read with --layout tensor"
        )
    noise = channels_first(content, clean, source)
    return Found(source, "noise", noise.clamp(-1, 1), unit="budget")
