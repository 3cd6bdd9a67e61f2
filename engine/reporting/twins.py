"""Tables of what differs in one setting alone: poisons in the branch of their gradient, victims in their backbone.

The counterparts of Tables 6 and 7 of He, Zha & Katabi 2023. Units: accuracies in percent, differences in points.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from engine.reporting.board import Board, accuracy_values, difference_values
from engine.reporting.learners import decisive, headline_set, reached
from engine.reporting.pairs import cells_of, paired_points
from engine.reporting.results import Results
from engine.reporting.tables import UNTRAINED, Summary, spread
from engine.reporting.wording import NOTHING, interval, mean_and_sd, of_seeds

BRANCHES = ("dual", "single")


class Pair(NamedTuple):
    """The names of two poisons that differ in the branch of their gradient alone."""

    dual: str
    single: str


def branches(results: Results, summaries: Sequence[Summary]) -> Board | None:
    """Return what the second branch of the gradient brings; None where a study has no such pair of poisons."""
    pairs = branch_pairs(results)
    if not pairs:
        return None
    study, shown = results.study, headline_set(results.study)
    at = {(s.poison, s.victim, s.defense, s.downstream): s for s in summaries}
    axes = [axis for axis in ("victim", "defense") if len(getattr(study, f"{axis}s")) > 1]
    lines, records = [], []
    for pair, victim, defense, downstream in itertools.product(pairs, study.victims, study.defenses, study.downstream):
        dual, single = (at[name, victim, defense, downstream] for name in pair)
        if downstream == shown:
            coordinates = {"victim": victim, "defense": defense}
            lines.append(
                (pair.dual, pair.single, *(coordinates[axis] for axis in axes), *_branch_cells(results, dual, single))
            )
        records.append(_branch_record(results, dual, single))
    return Board(
        "branches",
        "Dual branch against single branch",
        "Accuracy in percent under poisons that differ in one setting: whether their noise learns through both "
        "branches of the surrogate's loss (dual), or through the one that training uses (single). Difference: points "
        "of single above dual, paired over seeds: a positive one says that both branches harm more. Interval: its "
        f"95 % t confidence interval. Probed on {shown}.",
        ("dual", "single", *axes, "dual (%)", "single (%)", "difference (points)", "interval", "n"),
        tuple(lines),
        frozenset(range(2 + len(axes))),
        records,
    )


def branch_pairs(results: Results) -> list[Pair]:
    """Return every two poisons that differ in ``gradient`` alone; what they start from may differ in that too."""
    found: dict[str, dict[str, str]] = {}
    for name, facts in results.poisons.items():
        if facts.spec.get("gradient") in BRANCHES:
            found.setdefault(_without_branch(results, name), {}).setdefault(facts.spec["gradient"], name)
    return [Pair(*(each[branch] for branch in BRANCHES)) for each in found.values() if len(each) == len(BRANCHES)]


def _without_branch(results: Results, name: str) -> str:
    """Return what a poison declares but its branch, with what it starts from."""
    facts = results.poisons[name]
    start = _without_branch(results, facts.init) if facts.init in results.poisons else facts.init
    return _key(facts.spec, "gradient") + start


def _key(spec: Mapping[str, Any], left_out: str) -> str:
    return json.dumps({key: value for key, value in spec.items() if key != left_out}, sort_keys=True)


def _branch_points(results: Results, dual: Summary, single: Summary) -> list[float]:
    pairs = [(replace(cell, poison=single.poison), cell) for cell in cells_of(results.study, dual)]
    return paired_points(results, pairs, dual.downstream, decisive(dual))


def _branch_cells(results: Results, dual: Summary, single: Summary) -> tuple[str, ...]:
    found = spread(_branch_points(results, dual, single))
    accuracies = (of_seeds(reached(summary), len(summary.rows)) for summary in (dual, single))
    return (*accuracies, mean_and_sd(found), interval(found) or NOTHING, str(found.n if found else 0))


def _branch_record(results: Results, dual: Summary, single: Summary) -> dict[str, Any]:
    record: dict[str, Any] = {branch: summary.poison for branch, summary in zip(BRANCHES, (dual, single), strict=True)}
    record |= {axis: getattr(dual, axis) for axis in ("victim", "defense", "downstream")}
    record |= {"measure": decisive(dual)}
    for branch, summary in zip(BRANCHES, (dual, single), strict=True):
        record |= {f"{branch}_{key}": value for key, value in accuracy_values(reached(summary)).items()}
    return record | difference_values("difference", spread(_branch_points(results, dual, single)))


def backbones(results: Results, summaries: Sequence[Summary]) -> Board | None:
    """Return how poisons meet victims that differ in their backbone alone; None where a study has none."""
    families = backbone_families(results)
    if not families:
        return None
    study, shown = results.study, headline_set(results.study)
    members = [name for family in families for name in family]
    at = {(s.poison, s.victim, s.defense, s.downstream): s for s in summaries}
    several = len(study.defenses) > 1
    labels = {name: label for family in families for name, label in backbone_labels(results, family).items()}
    lines = []
    for victim, defense in itertools.product(members, study.defenses):
        found = [at[poison, victim, defense, shown] for poison in study.poisons]
        texts = itertools.chain.from_iterable(_backbone_cells(results, summary) for summary in found)
        lines.append((labels[victim], victim, *([defense] if several else []), *texts))
    headings = ["backbone", "victim", *(["defense"] if several else [])]
    for poison in study.poisons:
        headings += [f"{poison} (%)"] if poison == results.reference else [f"{poison} (%)", "drop (points)"]
    return Board(
        "backbones",
        "Backbones",
        "Accuracy in percent of victims that differ in their backbone alone. Drop: points below clean training of the "
        "same backbone, paired over seeds; in brackets its 95 % t confidence interval. "
        f"Probed on {shown}.",
        tuple(headings),
        tuple(lines),
        frozenset(range(2 + several)),
        [
            {"backbone": labels[summary.victim], **_backbone_record(summary)}
            for summary in summaries
            if summary.poison != UNTRAINED and summary.victim in labels
        ],
    )


def backbone_families(results: Results) -> list[list[str]]:
    """Return the victims that differ in their backbone alone, two or more of a family."""
    found: dict[str, dict[str, str]] = {}
    for name, spec in results.victims.items():
        found.setdefault(_key(spec, "backbone"), {})[name] = json.dumps(spec["backbone"], sort_keys=True)
    return [[*names] for names in found.values() if len(set(names.values())) > 1]


def backbone_labels(results: Results, names: Iterable[str]) -> dict[str, str]:
    """Return the kinds of some victims' backbones, with the settings in which those of one kind differ."""
    specs = {name: results.victims[name]["backbone"] for name in names}
    labels = {}
    for name, spec in specs.items():
        alike = [other for other in specs.values() if other["kind"] == spec["kind"]]
        settings = [key for key in spec if any(other.get(key) != spec[key] for other in alike)]
        labels[name] = " ".join([spec["kind"], *(f"{key} {spec[key]}" for key in settings)])
    return labels


def _backbone_cells(results: Results, summary: Summary) -> list[str]:
    accuracy = of_seeds(reached(summary), len(summary.rows))
    if summary.poison == results.reference:
        return [accuracy]
    drop = summary.spreads[f"{decisive(summary)}_drop"]
    return [accuracy, " ".join(filter(None, (of_seeds(drop, len(summary.rows)), interval(drop))))]


def _backbone_record(summary: Summary) -> dict[str, Any]:
    axes = {axis: getattr(summary, axis) for axis in ("poison", "attack", "victim", "defense", "downstream")}
    drop = difference_values("drop", summary.spreads[f"{decisive(summary)}_drop"])
    return {**axes, "measure": decisive(summary), **accuracy_values(reached(summary)), **drop}
