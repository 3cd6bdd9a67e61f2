"""One small table: as text for people, and as rows for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.reporting.tables import Spread

SHORT = 12
"""The most columns of a table that a terminal shows."""


@dataclass(frozen=True)
class Board:
    """A table as text, and its rows for machines.

    ``name`` is its file's stem; ``words`` says which columns hold no numbers.
    """

    name: str
    title: str
    note: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: frozenset[int]
    records: list[dict[str, Any]]

    @property
    def is_short(self) -> bool:
        """Say whether a terminal is wide enough."""
        return len(self.headings) <= SHORT


def values(found: Spread | None) -> dict[str, float | int | None]:
    """Return a spread for machines, rounded."""
    if found is None:
        return {"n": 0, "mean": None, "sd": None, "low": None, "high": None}
    numbers = {name: getattr(found, name) for name in ("mean", "sd", "low", "high")}
    return {"n": found.n, **{name: None if value is None else round(value, 4) for name, value in numbers.items()}}


def accuracy_values(found: Spread | None) -> dict[str, float | int | None]:
    """Return the columns of an accuracy."""
    shown = values(found)
    return {"accuracy": shown["mean"], "accuracy_sd": shown["sd"], "n": shown["n"]}
