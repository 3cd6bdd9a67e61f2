"""Small tables: of poisons over learners, data sets and fractions, and whatever else a study can tell."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from engine.reporting.beside import beside_published
from engine.reporting.board import Board, accuracy_values
from engine.reporting.costs import cost_board, time_board
from engine.reporting.defenses import compare_defenses
from engine.reporting.learners import WorstCase, decisive, headline_set, reached, worst_cases
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.tables import OWN, UNTRAINED, Summary
from engine.reporting.twins import backbones, branches
from engine.reporting.wording import NOTHING, learner, name_of, of_seeds


def boards(results: Results, summaries: Sequence[Summary]) -> list[Board]:
    """Return the tables that a study has something to say in."""
    study, found = results.study, [_worst_case(results, summaries)]
    if len(study.victims) > 1 or len(study.downstream) > 1:
        found.append(_transfer(results, summaries))
    if len({facts.poison_fraction for facts in results.poisons.values() if not facts.is_reference}) > 1:
        found.append(_fraction(results, summaries))
    if len(study.defenses) > 1:
        found += compare_defenses(results, summaries)
    found += filter(None, (branches(results, summaries), backbones(results, summaries)))
    return [*found, beside_published(results, summaries), cost_board(results), time_board(results)]


def _worst_case(results: Results, summaries: Sequence[Summary]) -> Board:
    study = results.study
    shown = sorted(
        worst_cases(results, summaries, headline_set(study)), key=lambda case: case.harm_rank or len(study.poisons)
    )
    headings = ("poison", "attack", "best (%)", "by", "clean best (%)", "by", "learners", "image-views", "harm", "cost")
    return Board(
        "worst_case",
        "Worst case over learners",
        "Best: the highest accuracy that any learner, a victim under a defense, still reaches on the poisoned data: "
        "of its own classifier where it has one, else of the linear probe. Learners: how many of the study's are "
        "measured. Image-views: what making the poison cost, with the poisons that it starts from. Harm and cost: "
        "ranks, 1 for the lowest accuracy and 1 for the fewest image-views. Probed on "
        f"{headline_set(study)}.",
        headings,
        tuple(_worst_line(case, results) for case in shown),
        frozenset({0, 1, 3, 5}),
        [
            _worst_record(case, downstream)
            for downstream in study.downstream
            for case in worst_cases(results, summaries, downstream)
        ],
    )


def _worst_line(case: WorstCase, results: Results) -> tuple[str, ...]:
    written = [
        part
        for summary in (case.best, case.clean)
        for part in (
            (of_seeds(reached(summary), len(summary.rows)), f"{learner(summary, results.study)}{_own(summary)}")
            if summary
            else (NOTHING, NOTHING)
        )
    ]
    ranks = (NOTHING if rank is None else str(rank) for rank in (case.harm_rank, case.cost_rank))
    measured = str(case.learners) if case.measured == case.learners else f"{case.measured} of {case.learners}"
    views = NOTHING if case.image_views is None else f"{case.image_views:,}"
    return (case.facts.name, case.facts.attack, *written, measured, views, *ranks)


def _own(summary: Summary) -> str:
    return " (own classifier)" if decisive(summary) == OWN else ""


def _worst_record(case: WorstCase, downstream: str) -> dict[str, Any]:
    record: dict[str, Any] = {"poison": case.facts.name, "attack": case.facts.attack, "downstream": downstream}
    for prefix, summary in (("", case.best), ("clean_", case.clean)):
        record |= {f"{prefix}{axis}": getattr(summary, axis) if summary else None for axis in ("victim", "defense")}
        record |= {f"{prefix}measure": decisive(summary) if summary else None}
        record |= {
            f"{prefix}{key}": value for key, value in accuracy_values(reached(summary) if summary else None).items()
        }
    return record | {
        "learners_measured": case.measured,
        "learners": case.learners,
        "image_views": case.image_views,
        "harm_rank": case.harm_rank,
        "cost_rank": case.cost_rank,
    }


def _transfer(results: Results, summaries: Sequence[Summary]) -> Board:
    study = results.study
    at = {(s.poison, s.defense, s.victim, s.downstream): s for s in summaries}
    columns = list(itertools.product(study.victims, study.downstream))
    measures = {
        column: OWN if any(s.spreads[OWN] for s in summaries if (s.victim, s.downstream) == column) else "linear"
        for column in columns
    }
    rows = [*itertools.product(study.poisons, study.defenses), (UNTRAINED, "")]
    several = len(study.defenses) > 1
    headings = ["poison", *(["defense"] if several else [])]
    for victim, downstream in columns:
        parts = [victim] if len(study.victims) > 1 else []
        parts += [f"on {downstream}"] if len(study.downstream) > 1 else []
        headings.append(" ".join([*parts, *(["(own classifier)"] if measures[victim, downstream] == OWN else [])]))
    lines, records = [], []
    for poison, defense in rows:
        found = [(at[poison, defense, *column], measures[column]) for column in columns]
        cells = (of_seeds(summary.spreads[measure], len(summary.rows)) for summary, measure in found)
        lines.append((name_of(poison), *([defense or NOTHING] if several else []), *cells))
        records += [_record(summary, measure) for summary, measure in found]
    return Board(
        "transfer",
        "Transfer",
        "Accuracy in percent on clean test images, of the linear probe unless the heading says otherwise. Rows: what "
        "was trained on. Columns: who trained, and where it was probed.",
        tuple(headings),
        tuple(lines),
        frozenset(range(1 + several)),
        records,
    )


def _record(summary: Summary, measure: str) -> dict[str, Any]:
    axes = {axis: getattr(summary, axis) for axis in ("poison", "attack", "victim", "defense", "downstream")}
    return {**axes, "measure": measure, **accuracy_values(summary.spreads[measure])}


def _fraction(results: Results, summaries: Sequence[Summary]) -> Board:
    study, downstream = results.study, headline_set(results.study)
    at = {(s.poison, s.victim, s.defense): s for s in summaries if s.downstream == downstream}
    families = _families(results)
    fractions = sorted({facts.poison_fraction for family in families for facts in family})
    axes = [axis for axis in ("victims", "defenses") if len(getattr(study, axis)) > 1]
    lines, records = [], []
    for victim, defense in itertools.product(study.victims, study.defenses):
        setting = [value for axis, value in (("victims", victim), ("defenses", defense)) if axis in axes]
        if results.reference is not None:
            clean = at[results.reference, victim, defense]
            lines.append((*setting, "0", *[of_seeds(reached(clean), len(clean.rows))] * len(families)))
        for fraction in fractions:
            members = [next((f for f in family if f.poison_fraction == fraction), None) for family in families]
            found = [at[facts.name, victim, defense] if facts else None for facts in members]
            cells = (of_seeds(reached(s), len(s.rows)) if s else NOTHING for s in found)
            lines.append((*setting, f"{100 * fraction:g}", *cells))
            records += [{"poison_fraction": fraction, **_record(s, decisive(s))} for s in found if s]
    return Board(
        "fraction",
        "Poisoned fractions",
        "Accuracy in percent where an attack perturbs a share of the images. Clean remainder: trained on the images "
        f"that stay clean alone; what exceeds it was learnt from poisoned images. Probed on {downstream}.",
        (*(axis.removesuffix("s") for axis in axes), "perturbed (%)", *map(_family_name, families)),
        tuple(lines),
        frozenset(range(len(axes))),
        records,
    )


def _families(results: Results) -> list[list[PoisonFacts]]:
    """Gather the poisons that differ in their fraction alone; those of one fraction, 1, have nothing to compare."""
    found: dict[str, list[PoisonFacts]] = {}
    for facts in results.poisons.values():
        if not facts.is_reference:
            settings = {key: value for key, value in facts.spec.items() if key != "poison_fraction"}
            found.setdefault(json.dumps(settings, sort_keys=True), []).append(facts)
    families = [family for family in found.values() if min(facts.poison_fraction for facts in family) < 1]
    return sorted(families, key=lambda family: not family[0].is_attack)


def _family_name(family: Sequence[PoisonFacts]) -> str:
    largest = max(family, key=lambda facts: facts.poison_fraction)
    return largest.name if largest.is_attack else "clean remainder"
