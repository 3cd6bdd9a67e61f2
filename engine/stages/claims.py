"""Claims: judge what is declared by the reports that are here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.artifacts.files import atomic_file
from engine.claims.declared import load_claims
from engine.claims.judging import JudgedClaim, judge
from engine.claims.page import PAGE, lost, outside, page, short_table
from engine.claims.records import Records
from engine.errors import EngineError
from engine.reporting.wording import plural
from engine.stages.report import REPORTS, print_tables


class ClaimLost(EngineError):
    """What a committed page calls reproduced is not."""


def write_verdicts() -> Path:
    """Judge every claim, print the verdicts, write their page, and return it."""
    judged = _judge()
    _print(judged)
    with atomic_file(PAGE) as partial:
        partial.write_text(page(judged, REPORTS), encoding="utf-8")
    return PAGE


def check_verdicts(committed: Path) -> str:
    """Judge every claim, print the verdicts, and return what is to be said of a committed page.

    Raises:
        ClaimLost: a claim that the page calls reproduced is not; every one is named.
    """
    judged = _judge()
    _print(judged)
    gone = lost(committed, judged)
    strayed, compared = outside(committed, judged)
    said = [
        f"Means within the intervals of {committed}: {compared - len(strayed)} of {plural(compared, 'effect')}.",
        *strayed,
    ]
    if gone:
        lead = f"{committed} calls {plural(len(gone), 'claim')} reproduced that are not: {', '.join(gone)}"
        raise ClaimLost("\n".join([lead, *said]))
    return "\n".join([f"What {committed} calls reproduced is reproduced.", *said])


def _judge() -> list[JudgedClaim]:
    return judge(load_claims(), Records(REPORTS))


def _print(judged: Sequence[JudgedClaim]) -> None:
    print_tables(("Claims and verdicts", *short_table(judged)))
