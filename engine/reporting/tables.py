"""The numbers of a report: accuracies, drops against clean, shares of the learned gain removed.

Units: accuracies and shares in percent, drops in percentage points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from engine.reporting.readings import Accuracy
from engine.reporting.results import FloorKey, Results, floor_keys, floor_stage, probe_stage
from engine.study import Cell, cells

UNTRAINED = "(untrained)"
"""Stands where a poison's name stands; no poison can be called so."""
CONFIDENCE = 0.95
PROBES = ("linear", "knn")
"""How every encoder is judged."""
OWN = "head"
"""The classifier that a supervised learner trains with its encoder: judged beside the probes where there is one."""
MEASURES = (
    *("linear", "knn", "linear_drop", "knn_drop", "linear_gain_removed", "knn_gain_removed"),
    *("head", "head_drop", "head_gain_removed"),
)


@dataclass(frozen=True)
class Row:
    """One network on one downstream set; the fields are the columns of ``accuracy.csv``."""

    cell: str
    poison: str
    attack: str
    victim: str
    defense: str
    seed: int
    downstream: str
    linear: float | None
    knn: float | None
    floor_linear: float | None = None
    floor_knn: float | None = None
    linear_drop: float | None = None
    knn_drop: float | None = None
    linear_gain_removed: float | None = None
    knn_gain_removed: float | None = None
    train_set: str = ""
    select: str = ""
    head: float | None = None
    floor_head: float | None = None
    head_drop: float | None = None
    head_gain_removed: float | None = None
    precision: str = ""

    @property
    def stage(self) -> str:
        """Return the DVC stage that makes the row's accuracies."""
        if self.poison == UNTRAINED:
            return floor_stage(FloorKey(self.victim, self.seed, self.downstream))
        return probe_stage(self.cell, self.downstream)

    @property
    def command(self) -> str:
        """Return what makes the row's accuracies."""
        return f"dvc repro {self.stage}"


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation and 95 % t interval of the mean; one value has only itself."""

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Summary:
    """One poison (or none) against one victim, over its seeds."""

    poison: str
    attack: str
    victim: str
    defense: str
    downstream: str
    rows: tuple[Row, ...]

    @cached_property
    def spreads(self) -> dict[str, Spread | None]:
        """Return the spread of every measure over the seeds that have it.

        Drops are paired: each seed's poisoned network is compared with its own clean one.
        """
        values = {measure: [getattr(row, measure) for row in self.rows] for measure in MEASURES}
        return {measure: spread([v for v in found if v is not None]) for measure, found in values.items()}

    @property
    def protocols(self) -> tuple[str, ...]:
        """Return how the accuracies were measured: the probe's training set, the epoch it reports."""
        found = {f"{row.train_set} · {row.select}": None for row in self.rows if row.linear is not None}
        return tuple(found)

    @property
    def command(self) -> str:
        """Return what makes the accuracies of all seeds."""
        return " ".join(["dvc repro", *(row.stage for row in self.rows)])

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the DVC stages of the accuracies that are not there."""
        return tuple(row.stage for row in self.rows if row.linear is None)


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean, sample standard deviation and the t interval of the mean, or None without a value."""
    n = len(values)
    if n == 0:
        return None
    mean = statistics.fmean(values)
    if n == 1:
        return Spread(1, mean)
    from scipy.special import stdtrit

    sd = statistics.stdev(values)
    margin = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, mean - margin, mean + margin)


def gain_removed(clean: float, poisoned: float, floor: float) -> float | None:
    """Return the share of what clean training adds to an untrained network that a poison takes away.

    Units: percent; None where clean training adds nothing. More than 100 is a network that training on
    poison left worse than it began; less than 0, one that it left better than clean training does.
    """
    return 100 * (clean - poisoned) / (clean - floor) if clean > floor else None


def accuracy_rows(results: Results) -> list[Row]:
    """Return a row for every cell and downstream set, then one for every untrained network."""
    study = results.study
    trained = [_row(results, cell, downstream) for cell in cells(study) for downstream in study.downstream]
    return trained + [_floor_row(key, results.floors.get(key)) for key in floor_keys(study)]


def _row(results: Results, cell: Cell, downstream: str) -> Row:
    own = results.accuracies.get((cell, downstream))
    coordinates = {
        "cell": cell.key,
        "poison": cell.poison,
        "attack": results.study.poisons[cell.poison].attack,
        "victim": cell.victim,
        "defense": cell.defense,
        "seed": cell.seed,
        "downstream": downstream,
    }
    if own is None:
        return Row(**coordinates, linear=None, knn=None)  # type: ignore[arg-type]
    floor = own.judged_like(results.floors.get(FloorKey(cell.victim, cell.seed, downstream)))
    clean = None
    if results.reference is not None:
        twin = Cell(cell.dataset, results.reference, cell.victim, cell.defense, cell.seed)
        clean = comparable(own, results.accuracies.get((twin, downstream)))
    measures = {name: value for probe in (*PROBES, OWN) for name, value in _compare(probe, own, clean, floor)}
    judged = {"train_set": own.train_set, "select": own.select, "precision": own.precision}
    return Row(**coordinates, **measures, **judged)  # type: ignore[arg-type]


def comparable(own: Accuracy, other: Accuracy | None) -> Accuracy | None:
    """Return another trained network's accuracies where both were trained in one precision and measured in one way."""
    alike = own.judged_like(other)
    return alike if alike is not None and alike.precision == own.precision else None


def _compare(
    probe: str, own: Accuracy, clean: Accuracy | None, floor: Accuracy | None
) -> Iterator[tuple[str, float | None]]:
    """Yield one probe's columns of a row."""
    poisoned = getattr(own, probe)
    yield probe, poisoned
    bottom = getattr(floor, probe) if floor else None
    yield f"floor_{probe}", bottom
    reference = getattr(clean, probe) if clean else None
    if poisoned is not None and reference is not None:
        yield f"{probe}_drop", round(reference - poisoned, 4)
        if bottom is not None:
            share = gain_removed(reference, poisoned, bottom)
            yield f"{probe}_gain_removed", None if share is None else round(share, 4)


def _floor_row(key: FloorKey, found: Accuracy | None) -> Row:
    values = {probe: getattr(found, probe) if found else None for probe in (*PROBES, OWN)}
    return Row(
        cell=f"{UNTRAINED}-{key.victim}-{key.seed}",
        poison=UNTRAINED,
        attack="",
        victim=key.victim,
        defense="",
        seed=key.seed,
        downstream=key.downstream,
        **values,
        train_set=found.train_set if found else "",
        select=found.select if found else "",
        precision="",
    )


def probes_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return how some networks were judged: with probes, and with a classifier of their own where one has one."""
    return (*PROBES, OWN) if any(row.head is not None for row in rows) else PROBES


def measures_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the measures that some rows can have."""
    probes = probes_of(rows)
    return tuple(measure for measure in MEASURES if measure.startswith(probes))


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Gather the seeds of every poison, victim, defense and downstream set, in the study's order."""
    groups: dict[tuple[str, str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.poison, row.attack, row.victim, row.defense, row.downstream), []).append(row)
    return [Summary(*axes, rows=tuple(group)) for axes, group in groups.items()]


class Setting(NamedTuple):
    """What poisons are compared within."""

    victim: str
    defense: str
    downstream: str


def by_setting(summaries: Sequence[Summary]) -> dict[Setting, list[Summary]]:
    """Gather the poisons that met the same victim, defense and downstream set, the untrained network last."""
    groups: dict[Setting, list[Summary]] = {}
    for summary in summaries:
        if summary.poison != UNTRAINED:
            groups.setdefault(Setting(summary.victim, summary.defense, summary.downstream), []).append(summary)
    untrained = {(s.victim, s.downstream): s for s in summaries if s.poison == UNTRAINED}
    return {setting: [*group, untrained[setting.victim, setting.downstream]] for setting, group in groups.items()}
