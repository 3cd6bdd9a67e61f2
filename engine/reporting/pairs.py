"""Cells that differ in one coordinate, beside each other.

Units: differences in percentage points.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.reporting.results import Results
from engine.reporting.tables import Summary, comparable
from engine.study import Cell, StudySpec


def cells_of(study: StudySpec, summary: Summary) -> list[Cell]:
    """Return the cells of a summary, one a seed."""
    axes = study.dataset, summary.poison, summary.victim, summary.defense
    return [Cell(*axes, row.seed) for row in summary.rows]


def paired_points(results: Results, pairs: Iterable[tuple[Cell, Cell]], downstream: str, measure: str) -> list[float]:
    """Return for every pair the points of its first cell above its second, where both were measured alike."""
    points = []
    for cell, twin in pairs:
        own = results.accuracies.get((cell, downstream))
        base = comparable(own, results.accuracies.get((twin, downstream))) if own else None
        one, other = (getattr(found, measure, None) for found in (own, base))
        if one is not None and other is not None:
            points.append(round(one - other, 4))
    return points
