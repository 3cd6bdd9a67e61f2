"""Contrastive augmentation whose strength is one number, from almost none to SimCLR's and beyond."""

from __future__ import annotations

from typing import Any


def chain_of_strength(strength: float) -> dict[str, Any]:
    """Return what a chain of augmentations is made of, at a strength s.

    The smallest crop is max(1 - 0.9 s, 0.05) of the area, the colours move by 0.4 s (hue 0.1 s) with probability
    min(0.99, 0.8 s), and an image turns grey with probability 0.2 s; half of the images are flipped at any strength.

    Units: strength is 0 for a flip alone and 1 for the paper's contrastive learners.
    Source: Wang, Zhu & Gao 2024, official code.
    """
    return {
        "crop_scale": (max(1 - 0.9 * strength, 0.05), 1.0),
        "flip": 0.5,
        "jitter": (0.4 * strength, 0.4 * strength, 0.4 * strength, 0.1 * strength),
        "jitter_probability": min(0.99, 0.8 * strength),
        "grayscale": 0.2 * strength,
    }
