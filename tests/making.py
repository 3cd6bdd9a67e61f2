"""What a manifest says of source and attack, for tests that write poisons of their own."""

from __future__ import annotations

from typing import Any

ABOUT: dict[str, Any] = {
    "name": "poison",
    "dataset": {
        "name": "pets",
        "spec": {"kind": "imagefolder", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "checksum": "c1fa" * 16,
    },
    "attack": {"name": "noise", "spec": {"kind": "random_noise"}, "init": "zero"},
    "epsilon": 8 / 255,
    "precision": "fp32",
    "numerics": 1,
}


def about(**changes: Any) -> dict[str, Any]:
    """Return what ``write_poison`` is told, with some of it changed."""
    return {**ABOUT, **changes}
