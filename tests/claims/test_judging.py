"""Verdicts: which side of a threshold an interval lies on, and what that makes of a claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.claims.judging import Finding, Verdict, compare
from engine.reporting.tables import Spread, spread
from tests.claims.reports import judged, write_accuracies

OPPOSITE = {Finding.HOLDS: Finding.CONTRADICTED, Finding.CONTRADICTED: Finding.HOLDS, Finding.OPEN: Finding.OPEN}
VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)
DROP = {"quantity": "drop", "poison": "cp"}


@pytest.fixture
def drops(tmp_path: Path) -> Path:
    """A poison that costs 9, 10 and 11 points in three seeds: 10 ± 2.484, whose interval is [7.516, 12.484]."""
    clean, poisoned = [60.0, 61.0, 62.0], [51.0, 51.0, 51.0]
    cells = {("clean", "simclr", "none", "pets"): clean, ("cp", "simclr", "none", "pets"): poisoned}
    write_accuracies(tmp_path, "small", cells)
    return tmp_path


@pytest.mark.parametrize(
    ("side", "threshold", "finding"),
    [
        ("above", 7.51, Finding.HOLDS),
        ("above", 7.52, Finding.OPEN),
        ("above", 12.48, Finding.OPEN),
        ("above", 12.49, Finding.CONTRADICTED),
        ("below", 12.49, Finding.HOLDS),
        ("below", 12.48, Finding.OPEN),
        ("below", 7.52, Finding.OPEN),
        ("below", 7.51, Finding.CONTRADICTED),
    ],
)
def test_an_interval_decides_only_where_it_lies_wholly_on_one_side(
    drops: Path, side: str, threshold: float, finding: Finding
) -> None:
    claim = judged(drops, {"value": DROP, side: threshold})
    (effect,) = claim.effects
    assert effect.estimate is not None
    assert effect.estimate.spread == Spread(3, 10.0, 1.0, pytest.approx(7.51586), pytest.approx(12.48414))
    assert effect.finding is finding


def test_the_end_of_an_interval_is_not_beyond_itself() -> None:
    point = Spread(3, 0.0, 0.0, 0.0, 0.0)
    assert compare(point, 1, 0.0) is compare(point, -1, 0.0) is Finding.OPEN
    assert compare(point, 1, -1e-9) is Finding.HOLDS


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    cells = {("clean", "simclr", "none", "pets"): [90.0], ("cp", "simclr", "none", "pets"): [20.0]}
    write_accuracies(tmp_path, "small", cells)
    claim = judged(tmp_path, {"value": DROP, "above": 0})
    assert claim.effects[0].estimate is not None
    assert claim.effects[0].estimate.spread.mean == 70
    assert (claim.effects[0].finding, claim.verdict) == (Finding.OPEN, Verdict.OPEN)


ABOVE = {Finding.HOLDS: 0, Finding.OPEN: 10, Finding.CONTRADICTED: 20}
OF_CLAIM = [
    ((Finding.HOLDS,), Verdict.REPRODUCED),
    ((Finding.HOLDS, Finding.HOLDS), Verdict.REPRODUCED),
    ((Finding.HOLDS, Finding.OPEN), Verdict.OPEN),
    ((Finding.OPEN, Finding.OPEN), Verdict.OPEN),
    ((Finding.OPEN, Finding.CONTRADICTED, Finding.HOLDS), Verdict.CONTRADICTED),
    ((Finding.HOLDS, Finding.NOT_MEASURED), Verdict.NOT_MEASURED),
    ((Finding.CONTRADICTED, Finding.NOT_MEASURED), Verdict.NOT_MEASURED),
]


@pytest.mark.parametrize(("findings", "verdict"), OF_CLAIM)
def test_the_worst_effect_makes_the_verdict(drops: Path, findings: tuple[Finding, ...], verdict: Verdict) -> None:
    effects = [
        {"value": {**DROP, "poison": "absent"}, "above": 0}
        if finding is Finding.NOT_MEASURED
        else {"value": DROP, "above": ABOVE[finding]}
        for finding in findings
    ]
    claim = judged(drops, *effects)
    assert tuple(effect.finding for effect in claim.effects) == findings
    assert claim.verdict is verdict
    assert claim.holding == findings.count(Finding.HOLDS)


def test_of_effects_alike_the_nearest_to_the_threshold_decides(drops: Path) -> None:
    effects = [{"value": DROP, "above": threshold, "says": f"more than {threshold}"} for threshold in (0, 7, 5)]
    assert judged(drops, *effects).deciding.effect.says == "more than 7"
    effects = [{"value": DROP, "below": threshold, "says": f"less than {threshold}"} for threshold in (11, 10, 12)]
    assert judged(drops, *effects).deciding.effect.says == "less than 10"


@settings(deadline=None)  # the first call imports scipy
@given(VALUES)
def test_the_interval_is_that_of_scipy(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    error = stats.sem(values)
    if error == 0:
        low = high = found.mean
    else:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=error)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-8), pytest.approx(high, abs=1e-8))


@settings(deadline=None)
@given(VALUES, st.floats(-100, 100))
def test_data_that_move_take_their_interval_along(values: list[float], shift: float) -> None:
    before, after = spread(values), spread([value + shift for value in values])
    assert before is not None
    assert after is not None
    assert after.low == pytest.approx((before.low or 0) + shift, abs=1e-9)
    assert after.high == pytest.approx((before.high or 0) + shift, abs=1e-9)


@settings(deadline=None)
@given(VALUES, st.floats(-100, 100))
def test_the_claim_of_the_other_side_has_the_opposite_finding(values: list[float], threshold: float) -> None:
    found = spread(values)
    assert found is not None
    assert compare(found, -1, threshold) is OPPOSITE[compare(found, 1, threshold)]


@settings(deadline=None)
@given(VALUES, st.floats(-100, 100))
def test_what_is_said_of_a_drop_is_said_of_a_rise_with_the_other_sign(values: list[float], threshold: float) -> None:
    found, turned = spread(values), spread([-value for value in values])
    assert found is not None
    assert turned is not None
    assert compare(found, 1, threshold) is compare(turned, -1, -threshold)
