"""The registry: the name of a benchmark is the name of its function, in any file of ``benchmarks/themes``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple

from benchmarks import themes
from benchmarks.lab import Lab

RIVALS = ("kornia", "lightly")
"""The packages of the optional group ``bench``; whatever else is missing is an error."""


class Pair(NamedTuple):
    """What was measured of the engine and of what it is compared with, in a benchmark's unit."""

    ours: float
    theirs: float


Measure = Callable[[Lab], Pair]
Ratio = Literal["ours/theirs", "theirs/ours"]


@dataclass(frozen=True)
class Benchmark:
    """One comparison and its target."""

    what: str
    measure: Measure
    unit: str
    ratio: Ratio
    better: Literal["larger", "smaller"]
    target: float | None
    judged: Literal["ratio", "ours"]

    def run(self, lab: Lab) -> dict[str, Any]:
        """Return ours, theirs, ratio, target and unit; no numbers where a rival is not installed."""
        try:
            ours, theirs = self.measure(lab)
        except ModuleNotFoundError as missing:
            if missing.name is None or missing.name.split(".")[0] not in RIVALS:
                raise
            return {"ours": None, "theirs": None, "ratio": None, "target": self.target, "unit": self.unit}
        ratio = ours / theirs if self.ratio == "ours/theirs" else theirs / ours
        return {"ours": ours, "theirs": theirs, "ratio": ratio, "target": self.target, "unit": self.unit}

    def reached(self, row: dict[str, Any]) -> bool | None:
        """Tell whether a row meets the target; None where there is no target or no number."""
        value = row[self.judged]
        if self.target is None or value is None:
            return None
        return value >= self.target if self.better == "larger" else value <= self.target


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(
    unit: str,
    *,
    target: float | None,
    better: Literal["larger", "smaller"] = "larger",
    ratio: Ratio = "ours/theirs",
    judged: Literal["ratio", "ours"] = "ratio",
) -> Callable[[Measure], Measure]:
    """Register a function of a lab; the first line of its docstring says what it measures."""

    def register(measure: Measure) -> Measure:
        what = (measure.__doc__ or "").split("\n")[0]
        BENCHMARKS[measure.__name__] = Benchmark(what, measure, unit, ratio, better, target, judged)
        return measure

    return register


def modules() -> list[ModuleType]:
    """Import every theme, which registers its benchmarks."""
    found = pkgutil.iter_modules(themes.__path__)
    return [importlib.import_module(f"{themes.__name__}.{module.name}") for module in found]


def benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark by name."""
    modules()
    return BENCHMARKS
