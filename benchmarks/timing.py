"""Time several things in turn, so that whatever else the machine does meets all of them alike.

Units: seconds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
Timed = Callable[[Clock], float]
"""A thing that times itself by a clock and returns the seconds that one unit of its work takes."""


@dataclass(frozen=True)
class Timing:
    """What one thing took, repeat by repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return the lower and the upper quartile, or the extremes where there are too few repeats."""
        if len(self.seconds) < 4:
            return min(self.seconds), max(self.seconds)
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def whole(work: Callable[[], object], *, calls: int = 1, units: int = 1) -> Timed:
    """Time all of a function, which does some units of work a call, over some calls."""

    def timed(clock: Clock) -> float:
        start = clock()
        for _ in range(calls):
            work()
        return (clock() - start) / (calls * units)

    return timed


def alternate(
    works: Mapping[str, Timed], *, repeats: int, warmups: int, clock: Clock, budget: float = math.inf
) -> dict[str, Timing]:
    """Time each thing once a round, for so many rounds after the unrecorded ones.

    No round but the first starts after the budget, by the wall clock, is used up.
    """
    for _ in range(warmups):
        _round(works, clock)
    start = time.monotonic()
    rounds = [_round(works, clock)]
    while len(rounds) < repeats and time.monotonic() - start < budget:
        rounds.append(_round(works, clock))
    return {name: Timing(tuple(each[name] for each in rounds)) for name in works}


def _round(works: Mapping[str, Timed], clock: Clock) -> dict[str, float]:
    return {name: timed(clock) for name, timed in works.items()}
