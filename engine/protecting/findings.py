"""Findings: what the accuracies of a verdict mean for an owner, above all where protection is weak or void.

Units: accuracies in percent, differences in points, shares of the learned gain in percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from engine.protecting.judging import Reading, Readings
from engine.protecting.variants import HALF, RELEASED

WEAK = 20.0
"""The share of the learned gain that a protection must remove at least."""
UNDONE = 0.5
"""A release that removes less than so much of what the released files remove undoes the protection."""
ADVICE = "a larger --epsilon may do more, and shows more"
NAMES = {
    "jpeg_75": "JPEG of quality 75",
    "jpeg_50": "JPEG of quality 50",
    "resized": "resizing to half and back",
}

Level = Literal["unknown", "void", "weak", "undone", "whole", "holds"]


@dataclass(frozen=True)
class Finding:
    """One statement on one learner. ``holds`` is the only good one; ``unknown`` says that nothing can be said."""

    level: Level
    learner: str
    text: str


def margin(readings: Readings) -> float:
    """Return the difference that chance explains: two standard errors of the test set, or two clean seeds' difference.

    The standard error is that of the difference of two binomial shares. Where a second clean training was measured,
    the larger of the two counts; one pair of seeds is a rough measure of their spread.
    """
    measure, test = readings.decisive, readings.clean.accuracy.test_images
    shares = [reading.reached(measure) / 100 for reading in (readings.clean, _released(readings))]
    error = 100 * math.sqrt(sum(share * (1 - share) for share in shares) / test)
    seeds = abs(readings.clean.reached(measure) - readings.again.reached(measure)) if readings.again else 0.0
    return max(2 * error, seeds)


def findings(readings: Readings) -> Iterator[Finding]:
    """Yield what is to be said of one learner, its protection first, then what undoes it."""
    measure, limit, released = readings.decisive, margin(readings), _released(readings)
    floor, clean, reached = (each.reached(measure) for each in (readings.floor, readings.clean, released))
    chance = f"a difference below {limit:.1f} points is what chance explains"
    name = "own classifier" if measure == "head" else "kNN"

    def found(level: Level, text: str) -> Finding:
        return Finding(level, readings.learner, text)

    if clean - floor <= limit:
        text = f"it learns next to nothing from the originals ({name} {clean:.1f} %, untrained {floor:.1f} %; {chance})"
        yield found("unknown", f"{text}: this test says nothing about it; more images or longer training would")
        return
    share = readings.removed(released, measure) or 0.0
    fact = f"{name} {reached:.1f} % on the protected images, {clean:.1f} % on the originals, {floor:.1f} % untrained"
    if clean - reached <= limit:
        yield found("void", f"the protection is void: {fact}; {chance}; {ADVICE}")
        return
    level: Level = "weak" if share < WEAK else "holds"
    verb, advice = ("is weak: it removes", f"; {ADVICE}") if level == "weak" else ("removes", "")
    yield found(level, f"the protection {verb} {share:.0f} % of what this learner gains: {fact}{advice}")
    for reading in (*readings.releases, *readings.defended):
        if reading is not released:
            yield from _undoing(readings, reading, share, limit)


def _undoing(readings: Readings, reading: Reading, share: float, limit: float) -> Iterator[Finding]:
    measure = readings.decisive
    left, reached = readings.removed(reading, measure) or 0.0, reading.reached(measure)
    if reading.release == HALF:
        if readings.clean.reached(measure) - reached <= limit:
            text = f"with every second image unprotected it is left whole: {reached:.1f} %; protect every image"
            yield Finding("whole", readings.learner, text)
    elif left < UNDONE * share:
        what = NAMES.get(reading.release) or f"the defense {reading.defense}"
        text = f"{what} undoes it: {left:.0f} % of the gain removed instead of {share:.0f} % ({reached:.1f} %)"
        yield Finding("undone", readings.learner, text)


def _released(readings: Readings) -> Reading:
    return next(reading for reading in readings.releases if reading.release == RELEASED)
