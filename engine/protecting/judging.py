"""Judging: what learners reach on each release of an owner's images, and on the originals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from engine.params import Params
from engine.protecting.ledger import run_once
from engine.protecting.recipes import Recipe
from engine.protecting.releases import RELEASES
from engine.protecting.scratch import Layout
from engine.protecting.variants import RELEASED
from engine.reporting.readings import Accuracy, parse
from engine.reporting.tables import gain_removed
from engine.specfiles import load
from engine.stages.generate import generate_job
from engine.stages.pretrain import pretrain_job
from engine.stages.probe import floor_job, probe_job
from engine.study import Cell, floor_path
from engine.victimspec import VictimSpec

CLEAN, UNTRAINED, AGAIN = "clean", "untrained", "clean, another seed"
UNDEFENDED = "none"


@dataclass(frozen=True)
class Reading:
    """What one learner reached.

    Units: accuracies in percent.
    """

    learner: str
    release: str
    defense: str
    accuracy: Accuracy

    def reached(self, measure: str) -> float:
        """Return an accuracy by its name: linear, knn or head."""
        value: float = getattr(self.accuracy, measure)
        return value


@dataclass(frozen=True)
class Readings:
    """Everything that was measured of one learner; ``again`` is the clean one of another seed, where there is one."""

    learner: str
    kind: str
    floor: Reading
    clean: Reading
    again: Reading | None
    releases: tuple[Reading, ...]
    defended: tuple[Reading, ...]

    @property
    def decisive(self) -> str:
        """Return the measure that decides: the learner's own classifier where it has one, else kNN."""
        return "knn" if self.clean.accuracy.head is None else "head"

    def removed(self, reading: Reading, measure: str) -> float | None:
        """Return the share of the learned gain that is removed, in percent; None where nothing was learned."""
        return gain_removed(self.clean.reached(measure), reading.reached(measure), self.floor.reached(measure))

    @property
    def rows(self) -> Iterator[Reading]:
        """Return all of them in the order of the table."""
        again = [self.again] if self.again else []
        return itertools.chain([self.floor, self.clean], again, self.releases, self.defended)


def learners_of(recipe: Recipe, *, has_labels: bool) -> list[str]:
    """Return the recipe's learners; those that need labels only where there are some."""
    specs: dict[str, VictimSpec] = {name: load("victims", name) for name in recipe.study.victims}
    return [name for name, spec in specs.items() if has_labels or not spec.classifies]


def judge(recipe: Recipe, layout: Layout, params: Params, seed: int, learners: list[str]) -> list[Readings]:
    """Train and probe every learner on the originals and on every release, and the first one under every defense."""
    run_once(generate_job(layout.judged, CLEAN, "clean", "zero", params.precision), params.layout)
    found = []
    for number, learner in enumerate(learners):
        judge_one = _Judge(layout.judged, learner, params, recipe.study.protocol)
        first = number == 0
        found.append(
            Readings(
                learner,
                load("victims", learner).kind,
                judge_one.floor(seed),
                judge_one.reading(CLEAN, UNDEFENDED, seed),
                judge_one.reading(CLEAN, UNDEFENDED, seed + 1, called=AGAIN) if first else None,
                tuple(judge_one.reading(name, UNDEFENDED, seed) for name in RELEASES),
                tuple(
                    judge_one.reading(RELEASED, defense, seed)
                    for defense in recipe.study.defenses
                    if first and defense != UNDEFENDED
                ),
            )
        )
    return found


@dataclass(frozen=True)
class _Judge:
    dataset: str
    learner: str
    params: Params
    protocol: str

    def floor(self, seed: int) -> Reading:
        """Judge the learner before any training."""
        run_once(floor_job(self.dataset, self.learner, seed, self.dataset, self.protocol), self.params.layout)
        file = floor_path(self.dataset, self.learner, seed, self.dataset)
        return Reading(self.learner, UNTRAINED, UNDEFENDED, parse(file, Accuracy))

    def reading(self, poison: str, defense: str, seed: int, *, called: str = "") -> Reading:
        """Train the learner on a release, under a defense, and judge it."""
        cell = Cell(self.dataset, poison, self.learner, defense, seed)
        run_once(pretrain_job(cell, self.params.precision), self.params.layout)
        run_once(probe_job(cell, self.dataset, self.protocol), self.params.layout)
        return Reading(self.learner, called or poison, defense, parse(cell.probe(self.dataset), Accuracy))
