"""Which of a study's learners each poison harms least: an attacker cannot choose who trains on the released images.

A learner is a victim under a defense. Units: accuracies in percent, cost in image-views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.reporting.results import PoisonFacts, Results
from engine.reporting.tables import OWN, UNTRAINED, Spread, Summary
from engine.study import StudySpec


@dataclass(frozen=True)
class WorstCase:
    """What a poison still leaves the learner that it harms least, and what making it cost.

    ``best`` is the most accurate learner on the poisoned data, ``clean`` that on the clean ones; the ranks count
    from one, for the least accuracy and for the least cost; what is no attack has none.
    """

    facts: PoisonFacts
    best: Summary | None
    clean: Summary | None
    measured: int
    learners: int
    image_views: int | None
    harm_rank: int | None = None
    cost_rank: int | None = None

    @property
    def accuracy(self) -> Spread | None:
        """Return the accuracy of the best learner over its seeds."""
        return reached(self.best) if self.best else None


def decisive(summary: Summary) -> str:
    """Return the measure that counts: a learner's own classifier where it has one, else the linear probe."""
    return OWN if summary.spreads[OWN] else "linear"


def reached(summary: Summary) -> Spread | None:
    """Return the accuracy that counts."""
    return summary.spreads[decisive(summary)]


def headline_set(study: StudySpec) -> str:
    """Return the downstream set that headlines speak of: the pretraining set, or the first where it is not probed."""
    return study.dataset if study.dataset in study.downstream else study.downstream[0]


def best_learner(summaries: Iterable[Summary]) -> Summary | None:
    """Return the most accurate of some learners, by the mean over its seeds."""
    found = [(spread.mean, summary) for summary in summaries if (spread := reached(summary))]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def worst_cases(results: Results, summaries: Sequence[Summary], downstream: str) -> list[WorstCase]:
    """Return the worst case of every poison, in the study's order."""
    by_poison: dict[str, list[Summary]] = {}
    for summary in summaries:
        if summary.downstream == downstream and summary.poison != UNTRAINED:
            by_poison.setdefault(summary.poison, []).append(summary)
    clean = best_learner(by_poison.get(results.reference or "", []))
    cases = []
    for name, facts in results.poisons.items():
        learners = by_poison[name]
        measured = sum(1 for summary in learners if reached(summary))
        cost = results.image_views(facts)
        cases.append(WorstCase(facts, best_learner(learners), clean, measured, len(learners), cost))
    return _ranked(cases)


def _ranked(cases: Sequence[WorstCase]) -> list[WorstCase]:
    attacks = [case for case in cases if case.facts.is_attack]
    means = [case.accuracy.mean for case in attacks if case.accuracy]
    costs = [case.image_views for case in attacks if case.image_views is not None]
    ranked = []
    for case in cases:
        harm = _rank(case.accuracy.mean, means) if case.facts.is_attack and case.accuracy else None
        cost = _rank(case.image_views, costs) if case.facts.is_attack and case.image_views is not None else None
        ranked.append(replace(case, harm_rank=harm, cost_rank=cost))
    return ranked


def _rank(value: float, among: Sequence[float]) -> int:
    """Return one more than how many are smaller: equals share a rank."""
    return 1 + sum(1 for other in among if other < value)
