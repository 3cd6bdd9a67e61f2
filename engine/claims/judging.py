"""Verdicts: an effect's interval against its threshold, a claim's effects together. Nobody else gives one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.claims.effects import Effect, effects_of
from engine.claims.measuring import Estimate, estimate
from engine.claims.records import NotMeasured, Records
from engine.claims.spec import ClaimsFile, ClaimSpec
from engine.reporting.tables import Spread


class Finding(StrEnum):
    """What is found of an effect; the worst comes first."""

    NOT_MEASURED = "not measured"
    CONTRADICTED = "contradicted"
    OPEN = "open"
    HOLDS = "holds"


class Verdict(StrEnum):
    """What is found of a claim."""

    NOT_MEASURED = "not measured"
    CONTRADICTED = "contradicted"
    OPEN = "not at this scale"
    REPRODUCED = "reproduced"


OF_WORST = dict(zip(Finding, Verdict, strict=True))
"""The verdict on a claim, by the worst that is found of its effects."""


@dataclass(frozen=True)
class JudgedEffect:
    """An effect, what was measured of it, or why nothing was."""

    effect: Effect
    estimate: Estimate | None
    reason: str = ""

    @property
    def finding(self) -> Finding:
        """Say on which side of its threshold the effect lies; one value has no interval and decides nothing."""
        if self.estimate is None:
            return Finding.NOT_MEASURED
        return compare(self.estimate.spread, self.effect.sign, self.effect.threshold)

    @property
    def clearance(self) -> float:
        """Return how far beyond the threshold the interval lies, in widths of the interval."""
        found = self.estimate.spread if self.estimate else None
        if found is None or found.low is None or found.high is None:
            return -math.inf
        nearest = found.low if self.effect.sign > 0 else found.high
        distance = self.effect.sign * (nearest - self.effect.threshold)
        return distance / (found.high - found.low) if found.high > found.low else math.copysign(math.inf, distance)


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what was found of each of its effects."""

    work: str
    claim: ClaimSpec
    effects: Sequence[JudgedEffect]

    @property
    def deciding(self) -> JudgedEffect:
        """Return the effect that the verdict hangs on: of those of the worst finding, the furthest from holding."""
        order = list(Finding)
        return min(self.effects, key=lambda judged: (order.index(judged.finding), judged.clearance))

    @property
    def verdict(self) -> Verdict:
        """Return the verdict: a claim is judged where all of its effects are measured, and each must hold."""
        return OF_WORST[self.deciding.finding]

    @property
    def holding(self) -> int:
        """Return how many effects hold."""
        return sum(judged.finding is Finding.HOLDS for judged in self.effects)


def compare(found: Spread, sign: int, threshold: float) -> Finding:
    """Say whether an interval lies beyond a threshold, wholly on the claimed side (``sign``) or wholly on the other."""
    if found.low is None or found.high is None:
        return Finding.OPEN
    if (found.low > threshold) if sign > 0 else (found.high < threshold):
        return Finding.HOLDS
    if (found.high < threshold) if sign > 0 else (found.low > threshold):
        return Finding.CONTRADICTED
    return Finding.OPEN


def judge(specs: Sequence[ClaimsFile], records: Records) -> list[JudgedClaim]:
    """Return the verdict on every claim.

    Raises:
        DamagedReport: a report's file is not what it was.
    """
    return [
        JudgedClaim(spec.work, claim, [_judged(effect, records) for effect in effects_of(spec, claim)])
        for spec in specs
        for claim in spec.claims
    ]


def _judged(effect: Effect, records: Records) -> JudgedEffect:
    try:
        return JudgedEffect(effect, estimate(effect, records))
    except NotMeasured as missing:
        return JudgedEffect(effect, None, str(missing))
