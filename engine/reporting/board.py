"""One small table: as text for people, and as rows for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.reporting.tables import Spread

SHORT = 12
"""The most columns of a table that a terminal shows."""
LETTERS = 60
"""The most letters of a cell that a terminal shows."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Board:
    """A table as text, and its rows for machines.

    ``name`` is its file's stem; ``words`` says which columns hold no numbers, ``code`` which hold commands. Without
    lines there is nothing to tabulate, and the note says why.
    """

    name: str
    title: str
    note: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: frozenset[int]
    records: list[dict[str, Any]]
    code: frozenset[int] = frozenset()

    @property
    def is_short(self) -> bool:
        """Say whether there are lines, and a terminal is wide enough for them."""
        longest = max((len(text) for line in self.lines for text in line), default=0)
        return bool(self.lines) and len(self.headings) <= SHORT and longest <= LETTERS


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


def difference_values(name: str, found: Spread | None) -> dict[str, float | int | None]:
    """Return the columns of a difference."""
    shown = values(found)
    difference = {name: shown["mean"], f"{name}_sd": shown["sd"], f"{name}_n": shown["n"]}
    return {**difference, f"{name}_ci_low": shown["low"], f"{name}_ci_high": shown["high"]}
