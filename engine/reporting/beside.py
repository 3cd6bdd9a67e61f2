"""A study's accuracies beside the published ones: never subtracted, and every difference of protocol said.

Units: accuracies in percent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.reporting.board import UNKNOWN, Board, accuracy_values
from engine.reporting.learners import decisive
from engine.reporting.pairs import cells_of
from engine.reporting.published import Figure, Published, Run, differences, figure_of, is_match, load_published
from engine.reporting.results import Results
from engine.reporting.tables import UNTRAINED, Spread, Summary, spread
from engine.reporting.wording import NOTHING, mean_and_sd
from engine.specfiles import resolved

TITLE = "Beside the published figures"


@dataclass(frozen=True)
class Beside:
    """One row: the cells of one poison, or of several that are averaged, and what was published of them."""

    members: tuple[Summary, ...]
    measured: Spread | None
    measure: str
    figure: Figure | None
    differs: tuple[str, ...]

    @property
    def poison(self) -> str:
        """Return the name of the poison, or those of the averaged ones."""
        names = [summary.poison for summary in self.members]
        return names[0] if len(names) == 1 else f"average of {' and '.join(names)}"

    @property
    def published(self) -> str:
        """Write the published accuracy, or that none is known."""
        if self.figure is None:
            return UNKNOWN
        return f"{self.figure.accuracy:g} (rounded)" if self.figure.is_rough else f"{self.figure.accuracy:.1f}"

    @property
    def source(self) -> str:
        """Say where the published accuracy stands, and what of it is a conclusion."""
        if self.figure is None:
            return NOTHING
        inferred = f" (inferred: {self.figure.inferred})" if self.figure.inferred else ""
        return f"{self.figure.source}{inferred}"


def beside_published(results: Results, summaries: Sequence[Summary]) -> Board:
    """Return the table, or where the study is of another data set, a board of one sentence."""
    published, dataset = load_published(), results.dataset
    if dataset is None or not is_match(published.dataset, dataset):
        return _empty(results, published, dataset)
    trained = [summary for summary in summaries if summary.poison != UNTRAINED]
    rows = [_row(results, published, (summary,)) for summary in trained]
    rows = sorted([*rows, *_averages(results, published, trained)], key=lambda row: row.figure is None)
    study = results.study
    optional = {"defense": study.defenses, "downstream": study.downstream}
    axes = ["victim", *(axis for axis, values in optional.items() if len(values) > 1)]
    headings = ("poison", *axes, "measured (%)", "published (%)", "source", "differs in (published)")
    lines = tuple(
        (
            *(row.poison, *(getattr(row.members[0], axis) for axis in axes)),
            *(_with_count(row.measured), row.published, row.source),
            "; ".join(row.differs) or NOTHING,
        )
        for row in rows
    )
    words = frozenset(set(range(len(headings))) - {len(axes) + 1, len(axes) + 2})
    return Board("published", TITLE, _note(published), headings, lines, words, list(map(_record, rows)))


def _empty(results: Results, published: Published, dataset: dict[str, Any] | None) -> Board:
    kinds = f"{published.work} published accuracies on data sets of kind {published.dataset['kind']}"
    own = f"this study is on {results.study.dataset}"
    if dataset is None:
        note = f"{kinds}; {own}, and of what kind that is no poison is there to say."
    else:
        note = f"{kinds}; {own}, of kind {dataset['kind']}, of which no published figure is known."
    return Board("published", TITLE, note, (), (), frozenset(), [])


def _note(published: Published) -> str:
    return (
        f"Published: {published.work}; where the paper and its official code differ in how a figure was made, the code "
        "is followed. Measured: mean ± sample standard deviation over n seeds, of the linear probe, or of the own "
        "classifier of a victim that has one. No difference is given, for the protocols are not the same: the last "
        "column names what differs, with the published value in brackets. It compares what is known and what specs "
        "declare; what it does not name may still differ."
    )


def _row(results: Results, published: Published, members: tuple[Summary, ...]) -> Beside:
    """Return the row of some poisons under one victim and defense."""
    first, study = members[0], results.study
    runs = [_runs(results, summary) for summary in members]
    figure = None
    if first.downstream == study.dataset:
        figure = figure_of(published, tuple(found[0].attack for found in runs), runs[0][0])
    measure = published.victims[figure.victim].measure if figure else decisive(first)
    differs: dict[str, None] = {}
    if figure:
        for name, found in zip(figure.attacks, runs, strict=True):
            for run in found:
                differs |= {str(difference): None for difference in differences(published, figure, name, run)}
    return Beside(members, _measured(results, members, measure), measure, figure, tuple(differs))


def _averages(results: Results, published: Published, trained: Sequence[Summary]) -> list[Beside]:
    """Return a row for every published average of which a study has all poisons."""
    settings = {(s.victim, s.defense, s.downstream): None for s in trained if s.downstream == results.study.dataset}
    rows = []
    for figure, setting in itertools.product((f for f in published.figures if len(f.attacks) > 1), settings):
        here = [s for s in trained if (s.victim, s.defense, s.downstream) == setting]
        patterns = [published.attacks[name].matches for name in figure.attacks]
        found = [next((s for s in here if is_match(p, results.poisons[s.poison].spec)), None) for p in patterns]
        members = tuple(summary for summary in found if summary is not None)
        if len(members) == len(patterns) and (row := _row(results, published, members)).figure == figure:
            rows.append(row)
    return rows


def _measured(results: Results, members: tuple[Summary, ...], measure: str) -> Spread | None:
    """Return the accuracy over the seeds that all members have, averaged over the members."""
    cells = zip(*(cells_of(results.study, summary) for summary in members), strict=True)
    means = []
    for twins in cells:
        found = [results.accuracies.get((cell, members[0].downstream)) for cell in twins]
        values = [getattr(accuracy, measure) for accuracy in found if accuracy]
        if len(values) == len(members) and None not in values:
            means.append(sum(values) / len(values))
    return spread(means)


def _runs(results: Results, summary: Summary) -> list[Run]:
    """Gather the specs of a summary's cells, once for every way in which their accuracies were measured."""
    facts, dataset = results.poisons[summary.poison], results.dataset or {}
    cells = cells_of(results.study, summary)
    found = [accuracy for cell in cells if (accuracy := results.accuracies.get((cell, summary.downstream)))]
    ways = dict.fromkeys((accuracy.train_set, accuracy.select, accuracy.test_images) for accuracy in found)
    probe = results.protocol
    return [
        Run(
            {**facts.spec, "init": _start(results, facts.init)},
            results.victims[summary.victim],
            resolved(results.defenses[summary.defense]),
            {
                "images": facts.manifest["images"] if facts.manifest else UNKNOWN,
                "test_images": test_images,
                "image_size": dataset.get("image_size"),
            },
            {**probe, "train_set": train_set, "linear": {**probe["linear"], "select": select}},
        )
        for train_set, select, test_images in ways or [(probe["train_set"], probe["linear"]["select"], UNKNOWN)]
    ]


def _start(results: Results, init: str) -> str:
    """Say where noise starts: a way to draw it, or the granularity and the kind of another poison."""
    if init not in results.poisons:
        return init
    spec = results.poisons[init].spec
    return f"{spec['granularity']} {spec['kind']}"


def _with_count(found: Spread | None) -> str:
    return NOTHING if found is None else f"{mean_and_sd(found)} (n = {found.n})"


def _record(row: Beside) -> dict[str, Any]:
    first, figure = row.members[0], row.figure
    return {
        "poison": row.poison,
        **{axis: getattr(first, axis) for axis in ("victim", "defense", "downstream")},
        "measure": row.measure,
        **accuracy_values(row.measured),
        "published": figure.accuracy if figure else None,
        "published_is_rough": figure.is_rough if figure else None,
        "source": figure.source if figure else None,
        "inferred": figure.inferred if figure else None,
        "differences": "; ".join(row.differs) if figure else None,
    }
