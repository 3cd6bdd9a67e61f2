"""What reports say of one effect: a number a seed, or a share of images, and its 95 % interval."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.claims.effects import OF_POISONS, OF_TRAINING, Effect, Value
from engine.claims.records import ACCURACY, PERTURBATIONS, RESTORE, TRAINING, DamagedReport, Line, NotMeasured, Records
from engine.reporting.tables import CONFIDENCE, Spread, spread

PERCENT = 100
COLUMNS = {"accuracy": "{metric}", "drop": "{metric}_drop", "removed": "{metric}_gain_removed"}
"""In which column of ``accuracy.csv`` a quantity stands."""


@dataclass(frozen=True)
class Sample:
    """A number for every seed, how it was judged, and the files that it stands in."""

    by_seed: Mapping[int, float]
    protocols: frozenset[str]
    files: frozenset[str]


@dataclass(frozen=True)
class Estimate:
    """The mean of an effect with its interval, of so many seeds or images, and where it comes from."""

    spread: Spread
    counted: str
    seeds: tuple[int, ...]
    protocols: tuple[str, ...]
    files: tuple[str, ...]


def estimate(effect: Effect, records: Records) -> Estimate:
    """Return what was measured of an effect: differences are taken seed by seed.

    A separability has no seeds. Its interval (Wilson's) is over the images that the linear model was not fitted to; it
    says nothing of another run of the attack.

    Raises:
        NotMeasured: a result is missing; a mean over what is there could favour what went well.
        DamagedReport: a report's file is not what it was.
    """
    if effect.value.quantity in OF_POISONS:
        return _proportion(effect.value, records)
    samples = [_sample(value, records) for value in effect.values]
    seeds = sorted(set.intersection(*(set(sample.by_seed) for sample in samples)))
    if not seeds:
        studies = " and ".join(dict.fromkeys(value.study for value in effect.values))
        raise NotMeasured(f"{studies} have no seed in common; give them the same seeds and run them")
    first, *others = ([sample.by_seed[seed] for seed in seeds] for sample in samples)
    numbers = [one - other for one, other in zip(first, others[0], strict=True)] if others else first
    found = spread(numbers)
    assert found is not None  # there is a seed
    protocols = frozenset[str]().union(*(sample.protocols for sample in samples))
    files = frozenset[str]().union(*(sample.files for sample in samples))
    return Estimate(found, "seeds", tuple(seeds), tuple(sorted(protocols)), tuple(sorted(files)))


def _sample(value: Value, records: Records) -> Sample:
    """Return the mean over a value's cells for every seed."""
    cells = [_cell(value, where, records) for where in _places(value, records)]
    seeds = {frozenset(cell.by_seed) for cell in cells}
    if len(seeds) > 1:
        raise DamagedReport(f"the report of {value.study} has cells of different seeds; {RESTORE}")
    by_seed = {seed: statistics.fmean(cell.by_seed[seed] for cell in cells) for seed in cells[0].by_seed}
    return Sample(by_seed, frozenset[str]().union(*(cell.protocols for cell in cells)), cells[0].files)


def _places(value: Value, records: Records) -> Iterator[dict[str, str]]:
    axes = {"poison": value.poison, "victim": value.victim, "defense": value.defense}
    if value.quantity not in OF_TRAINING:
        axes["downstream"] = value.downstream or (records.dataset(value.study),)
    for names in itertools.product(*axes.values()):
        yield dict(zip(axes, names, strict=True))


def _cell(value: Value, where: Mapping[str, str], records: Records) -> Sample:
    is_probed = value.quantity not in OF_TRAINING
    file = ACCURACY if is_probed else TRAINING
    column = COLUMNS[value.quantity].format(metric=value.metric) if is_probed else value.quantity
    by_seed: dict[int, float] = {}
    protocols = set()
    at = value.study, file
    for line in records.lines(*at, where):
        seed = int(records.number(*at, line, "seed"))
        if seed in by_seed:
            cell = f"seed {seed} of {', '.join(where.values())}"
            raise DamagedReport(f"{records.root / value.study / file} has two lines of {cell}; {RESTORE}")
        by_seed[seed] = _number(value, line, column, records) if is_probed else records.number(*at, line, column)
        if is_probed:
            judged = (records.text(*at, line, name) for name in ("train_set", "select"))
            protocols.add(" · ".join([str(value.metric), *judged]))
    return Sample(by_seed, frozenset(protocols or {"last epoch of training"}), frozenset({f"{value.study}/{file}"}))


def _number(value: Value, line: Line, column: str, records: Records) -> float:
    at = value.study, ACCURACY
    if value.quantity == "removed" and not records.text(*at, line, column):
        records.number(*at, line, f"{value.metric}_drop")  # where this is missing too, so are results
        raise NotMeasured(
            f"{value.study} has no share of the learned gain of {line['cell']} on {line['downstream']}: clean training "
            "adds nothing there, or the untrained network was not probed; claim a drop instead, or run `dvc repro`"
        )
    return records.number(*at, line, column)


def _proportion(value: Value, records: Records) -> Estimate:
    from scipy.stats import binomtest

    (poison,) = value.poison
    lines = records.lines(value.study, PERTURBATIONS, {"poison": poison})
    share, images = (records.number(value.study, PERTURBATIONS, lines[0], name) for name in ("separability", "judged"))
    count = int(images)
    if count < 1 or not 0 <= share <= 1:
        path = records.root / value.study / PERTURBATIONS
        raise DamagedReport(f"{path} says that {share} of {count} images of {poison} are told; {RESTORE}")
    interval = binomtest(round(share * count), count).proportion_ci(CONFIDENCE, method="wilson")
    low, high = PERCENT * interval.low, PERCENT * interval.high
    found = Spread(count, PERCENT * share, low=low, high=high)
    return Estimate(found, "images", (), ("logistic regression",), (f"{value.study}/{PERTURBATIONS}",))
