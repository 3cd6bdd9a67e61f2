"""Where training ended: the last loss of every cell, and the last alignment and uniformity that were measured."""

from __future__ import annotations

from typing import Any

from engine.protocols import MEASURES
from engine.reporting.readings import Curve
from engine.reporting.results import Results
from engine.study import cells


def training_records(results: Results) -> list[dict[str, Any]]:
    """Return a row for every cell; what was not measured is None.

    Alignment and uniformity are of the released images, with ``clean_`` of their originals in the same network.
    """
    return [
        {
            "cell": cell.key,
            **{axis: getattr(cell, axis) for axis in ("poison", "victim", "defense", "seed")},
            **_ending(results.curves.get(cell)),
        }
        for cell in cells(results.study)
    ]


def _ending(curve: Curve | None) -> dict[str, float | int | None]:
    columns = {name: curve.measured(name) if curve else None for name in MEASURES}
    return {
        "epochs": int(curve.epochs[-1]) if curve else None,
        "loss": round(float(curve.losses[-1]), 6) if curve else None,
        **{name: round(float(found.losses[-1]), 6) if found else None for name, found in columns.items()},
    }
