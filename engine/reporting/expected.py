"""What was published of the cells that a study declares, before anything of it has run.

Only a victim that trains as the published one has a figure here; attacks may differ in their schedule, for the paper
and its official code do.

Units: accuracies in percent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from engine.reporting.board import UNKNOWN
from engine.reporting.published import Figure, Published, Run, figure_of, is_match, load_published
from engine.specfiles import load, resolved
from engine.study import StudySpec


@dataclass(frozen=True)
class Line:
    """The published figures of one poison, or of the average of several, under one defense: one a victim, or none."""

    label: str
    figures: tuple[Figure | None, ...]


def expected_lines(study: StudySpec) -> list[Line]:
    """Return a line for every poison, defense and downstream set of a study, and for every average that is known."""
    published = load_published()
    attacks = {name: resolved(load("attacks", entry.attack)) for name, entry in study.poisons.items()}
    rows = [*((name,) for name in study.poisons), *_averages(published, attacks)]
    found = []
    for poisons, defense, downstream in itertools.product(rows, study.defenses, study.downstream):
        members = tuple(attacks[name] for name in poisons)
        figures = tuple(
            _figure(published, members, Run({}, victim, resolved(load("defenses", defense)), {}, {}))
            for victim in _victims(published, study, downstream)
        )
        if len(poisons) == 1 or any(figures):
            found.append(Line(_label(study, poisons, defense, downstream), figures or (None,) * len(study.victims)))
    return found


def as_table(study: StudySpec, lines: Sequence[Line]) -> list[str]:
    """Write the lines below their victims; letters refer to the sources, which follow."""
    sources = list(dict.fromkeys(map(_source, itertools.chain(*(filter(None, line.figures) for line in lines)))))
    rows = [("", *study.victims)]
    rows += [(line.label, *(_written(figure, sources) for figure in line.figures)) for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, *(f"{letter}: {source}" for letter, source in zip(ascii_lowercase, sources, strict=False))]


def short(figure: Figure) -> str:
    """Write a published accuracy."""
    return f"about {figure.accuracy:g}" if figure.is_rough else f"{figure.accuracy:.1f}"


def _figure(published: Published, attacks: tuple[dict[str, Any], ...], run: Run) -> Figure | None:
    figure = figure_of(published, attacks, run)
    return figure if figure and is_match(published.victims[figure.victim].protocol, run.victim) else None


def _victims(published: Published, study: StudySpec, downstream: str) -> list[dict[str, Any]]:
    """Return the victims of which figures may be known: none on other data sets than the published one."""
    own = downstream == study.dataset and is_match(published.dataset, resolved(load("datasets", study.dataset)))
    return [resolved(load("victims", name)) for name in study.victims] if own else []


def _averages(published: Published, attacks: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the poisons of every published average of which a study has all."""
    for names in dict.fromkeys(figure.attacks for figure in published.figures if len(figure.attacks) > 1):
        patterns = [published.attacks[name].matches for name in names]
        found = [next((name for name in attacks if is_match(each, attacks[name])), None) for each in patterns]
        members = tuple(name for name in found if name is not None)
        if len(members) == len(patterns):
            yield members


def _label(study: StudySpec, poisons: tuple[str, ...], defense: str, downstream: str) -> str:
    """Name a line by what its study has several of."""
    words = [poisons[0] if len(poisons) == 1 else f"average of {' and '.join(poisons)}"]
    words += [defense] if len(study.defenses) > 1 else []
    words += [f"on {downstream}"] if len(study.downstream) > 1 else []
    return ", ".join(words)


def _source(figure: Figure) -> str:
    return f"{figure.source}; inferred: {figure.inferred}" if figure.inferred else figure.source


def _written(figure: Figure | None, sources: list[str]) -> str:
    return UNKNOWN if figure is None else f"{short(figure)} {ascii_lowercase[sources.index(_source(figure))]}"
