"""What a defense brings and what it costs: each cell beside the same cell without a defense.

Units: accuracies in percent, differences in percentage points, times of an epoch as ratios.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from engine.reporting.board import UNKNOWN, Board, accuracy_values, difference_values
from engine.reporting.pairs import cells_of, paired_points
from engine.reporting.results import Results
from engine.reporting.tables import OWN, UNTRAINED, Spread, Summary, probes_of, spread
from engine.reporting.wording import number, of_seeds
from engine.study import Cell


def compare_defenses(results: Results, summaries: Sequence[Summary]) -> list[Board]:
    """Return a table of defenses x poisons for every victim and downstream set, in the study's order."""
    trained = [summary for summary in summaries if summary.poison != UNTRAINED]
    settings = itertools.product(results.study.victims, results.study.downstream)
    return [_board(results, [s for s in trained if (s.victim, s.downstream) == setting]) for setting in settings]


def points_gained(results: Results, summary: Summary, measure: str) -> list[float]:
    """Return for every seed the points above the same cell without a defense, where both were measured alike."""
    return paired_points(results, _pairs(results, summary), summary.downstream, measure)


def time_ratios(results: Results, summaries: Iterable[Summary]) -> list[float]:
    """Return every cell's time of an epoch over that of the same cell without a defense, on one kind of device."""
    ratios = []
    for cell, twin in itertools.chain.from_iterable(_pairs(results, summary) for summary in summaries):
        own, base = results.training_cost(cell), results.training_cost(twin)
        if own and base and own.device == base.device:
            ratios.append(own.seconds_per_epoch / base.seconds_per_epoch)
    return ratios


def _pairs(results: Results, summary: Summary) -> list[tuple[Cell, Cell]]:
    """Return a summary's cells, each beside the same cell without a defense."""
    if results.undefended is None:
        return []
    return [(cell, replace(cell, defense=results.undefended)) for cell in cells_of(results.study, summary)]


def _board(results: Results, members: Sequence[Summary]) -> Board:
    study, (victim, downstream) = results.study, (members[0].victim, members[0].downstream)
    at = {(summary.defense, summary.poison): summary for summary in members}
    measure = OWN if any(summary.spreads[OWN] for summary in members) else "linear"
    measures = probes_of(row for summary in members for row in summary.rows)
    parts = [("of", victim)] if len(study.victims) > 1 else []
    parts += [("on", downstream)] if len(study.downstream) > 1 else []
    lines = [_line(results, [at[defense, poison] for poison in study.poisons], measure) for defense in study.defenses]
    relative = results.undefended is not None
    kept = [True, *[True, relative] * len(study.poisons), relative]
    return Board(
        "-".join(["defenses", *(name for _, name in parts)]),  # names hold no hyphen: no two tables share a file
        " ".join(["Defenses", *itertools.chain.from_iterable(parts)]),
        _note(results, measure),
        tuple(itertools.compress(_headings(results), kept)),
        tuple(tuple(itertools.compress(line, kept)) for line in lines),
        frozenset({0}),
        [
            _record(results, at[defense, poison], at.get((defense, results.reference or "")), probe)
            for defense, poison, probe in itertools.product(study.defenses, study.poisons, measures)
        ],
    )


def _headings(results: Results) -> list[str]:
    headings = ["defense"]
    for poison in results.study.poisons:
        headings += [f"{poison} (%)", f"{'clean cost' if poison == results.reference else 'recovered'} (points)"]
    return [*headings, f"time per epoch (\N{MULTIPLICATION SIGN} {results.undefended})"]


def _line(results: Results, members: Sequence[Summary], measure: str) -> tuple[str, ...]:
    """Write what one defense does to every poison."""
    written = []
    for summary in members:
        compare = _clean_cost if summary.poison == results.reference else _recovered
        found = summary.spreads[measure], compare(results, summary, measure)
        written += [of_seeds(value, len(summary.rows)) for value in found]
    ratios, wanted = time_ratios(results, members), sum(len(summary.rows) for summary in members)
    note = f" (n = {len(ratios)})" if len(ratios) != wanted else ""
    time = f"{number(statistics.median(ratios), 2)}{note}" if ratios else UNKNOWN
    return (members[0].defense, *written, time)


def _recovered(results: Results, summary: Summary, measure: str) -> Spread | None:
    """Return the points that a defense brings; none has nothing to be compared with."""
    return spread(points_gained(results, summary, measure)) if summary.defense != results.undefended else None


def _clean_cost(results: Results, summary: Summary, measure: str) -> Spread | None:
    """Return the points that a defense loses on the clean poison."""
    gained = points_gained(results, summary, measure) if summary.defense != results.undefended else []
    return spread([0 - points for points in gained])


def _note(results: Results, measure: str) -> str:
    judge = "the victim's own classifier" if measure == OWN else "the linear probe"
    accuracy = f"Accuracy in percent on clean test images, of {judge}."
    if results.undefended is None:
        return (
            f"{accuracy} What a defense recovers and costs is not said: the study has no cell without a defense to "
            "compare with, for none of its defenses is of kind none."
        )
    cost = f" Clean cost: points that it loses on {results.reference}." if results.reference is not None else ""
    return (
        f"{accuracy} Recovered: points that a defense gains over no defense on the same poison.{cost} Both are paired "
        "over seeds. Time: relative to no defense on the same poison, seed and kind of device, the median over poisons "
        "and seeds; it leaves out what a defense does before the first epoch."
    )


def _record(results: Results, summary: Summary, clean: Summary | None, measure: str) -> dict[str, Any]:
    axes = {axis: getattr(summary, axis) for axis in ("poison", "attack", "victim", "defense", "downstream")}
    record = {**axes, "measure": measure, **accuracy_values(summary.spreads[measure])}
    if results.undefended is None:
        return record
    is_attacked = summary.poison != results.reference
    record |= difference_values("recovered", _recovered(results, summary, measure) if is_attacked else None)
    record |= difference_values("clean_cost", _clean_cost(results, clean, measure) if clean else None)
    ratios = time_ratios(results, [summary])
    return record | {"time_ratio": round(statistics.median(ratios), 4) if ratios else None, "time_n": len(ratios)}
