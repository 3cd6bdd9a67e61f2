"""How long stages took when they last ran, to start the longest chains first."""

from __future__ import annotations

from pathlib import Path

from engine.artifacts.files import read_json, write_json
from engine.parallel.pipeline import Plan

FILE = Path(".work/lengths.json")


class Lengths:
    """Seconds that stages took; a stage that never ran is expected to take what its like took."""

    def __init__(self) -> None:
        """Read what earlier runs wrote."""
        self._seconds: dict[str, float] = read_json(FILE) if FILE.is_file() else {}

    def record(self, stage: str, seconds: float) -> None:
        """Keep, beyond this process, how long a stage took."""
        self._seconds[stage] = round(seconds, 1)
        write_json(FILE, self._seconds)

    def expected(self, stage: str) -> float | None:
        """Return how long a stage is expected to take; None where nothing like it ever ran."""
        if stage in self._seconds:
            return self._seconds[stage]
        alike = [seconds for name, seconds in self._seconds.items() if _group(name) == _group(stage)]
        return sum(alike) / len(alike) if alike else None

    def chains(self, plan: Plan) -> dict[str, float]:
        """Return, for every stage, the length of the longest chain of stages that starts with it."""
        users = plan.users()
        chains: dict[str, float] = {}
        for stage in reversed(plan.order):
            chains[stage] = (self.expected(stage) or 0) + max((chains[user] for user in users[stage]), default=0)
        return chains


def _group(stage: str) -> str:
    """Return the part of a stage's name that all cells of a group share."""
    return stage.partition("@")[0]
