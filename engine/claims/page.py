"""Verdicts as a page of documentation, as a table for terminals, and read back from a committed page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.claims.effects import Effect
from engine.claims.judging import JudgedClaim, JudgedEffect, Verdict
from engine.errors import EngineError
from engine.reporting.wording import NOTHING, interval, number

PAGE = Path("docs/claims.md")
BAR = "\\|"
HEADINGS = ("id", "claim", "effect", "measured", "n", "95 % interval", "claimed", "verdict")
NUMBERS = frozenset({"measured", "n", "95 % interval", "claimed"})
VERDICT = re.compile(rf"^\| (?P<id>[A-Z]+[0-9]+) \|.*\| (?P<verdict>{'|'.join(Verdict)}) \|$", re.MULTILINE)
INTERVAL = re.compile(r" \| \[(?P<low>\S+), (?P<high>\S+)\] \| ")
LEGEND = """\
The verdicts are computed from the tables of the studies' reports, which are committed; nobody writes one by hand. An
effect is measured once for every seed of the victim, a difference between networks of the same seed; beside the mean
over seeds stands its 95 % interval (Student's t). The effect *holds* where the whole interval lies on the claimed
side of the threshold, is *contradicted* where it lies on the other side, and is *open* otherwise; a single seed has
no interval and decides nothing. A claim is *reproduced* where all of its effects hold, *contradicted* where one of
them is, and otherwise *not at this scale*; where a result is missing it is *not measured*. The intervals are over
seeds of the victim: every poison was made once. That of a separability (Wilson's) is over the images that it was
judged on. Of a claim with several effects the table shows the one that the verdict hangs on: that which is furthest
from holding."""


def page(claims: Sequence[JudgedClaim], reports: Path) -> str:
    """Write the verdicts as Markdown; links lead from ``PAGE`` to the reports."""
    works = " and ".join(dict.fromkeys(judged.work for judged in claims))
    counts = ", ".join(f"{_count(claims, verdict)} {verdict}" for verdict in reversed(Verdict))
    parts = [
        "# Claims and verdicts",
        f"Written by `python -m engine claims` from `specs/claims` and the reports: do not edit. Claims of {works}.",
        f"Of {len(claims)} claims: {counts}.",
        _table(HEADINGS, [_row(judged) for judged in claims]),
        LEGEND,
        *(_section(judged, reports) for judged in claims),
    ]
    return "\n\n".join(parts) + "\n"


def short_table(claims: Sequence[JudgedClaim]) -> tuple[list[str], list[list[str]]]:
    """Return the verdicts for a terminal: headings and lines."""
    shown = [place for place, heading in enumerate(HEADINGS) if heading != "effect"]
    rows = [_row(judged) for judged in claims]
    return [HEADINGS[place] for place in shown], [[row[place] for place in shown] for row in rows]


def lost(committed: Path, claims: Sequence[JudgedClaim]) -> list[str]:
    """Return the ids of what a committed page calls reproduced and what is not now.

    Raises:
        EngineError: there is no such page, or it has no verdict.
    """
    found = VERDICT.findall(_read(committed))
    if not found:
        raise EngineError(f"{committed} has no table of verdicts; give a copy of {PAGE}")
    now = {judged.claim.id: judged.verdict for judged in claims}
    return [
        f"{name} ({now.get(name, 'declared no more')})"
        for name, verdict in found
        if verdict == Verdict.REPRODUCED and now.get(name) is not Verdict.REPRODUCED
    ]


def outside(committed: Path, claims: Sequence[JudgedClaim]) -> tuple[list[str], int]:
    """Return the effects whose mean lies outside the interval that a committed page gives, and how many were compared.

    An effect is compared where it is measured now and was then. Of means that are equal in truth, one in eleven lies
    outside such an interval over three seeds.

    Raises:
        EngineError: there is no such page.
    """
    text = _read(committed)
    left, compared = list[str](), 0
    for judged in claims:
        section = text.partition(f"\n## {judged.claim.id}: ")[2].partition("\n## ")[0]
        for each in judged.effects:
            start = f"{_cells(_named(each.effect))} |"
            given = INTERVAL.search(next((line for line in section.splitlines() if line.startswith(start)), ""))
            if each.estimate is None or given is None:
                continue
            compared += 1
            shown = _numbers(each)[0]
            if not _value(given["low"]) <= _value(shown.split(" ")[0]) <= _value(given["high"]):
                left.append(f"{judged.claim.id}, {each.effect.says}: {shown}, was [{given['low']}, {given['high']}]")
    return left, compared


def _read(committed: Path) -> str:
    try:
        return committed.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{committed} cannot be read ({error}); give a copy of {PAGE}") from error


def _value(written: str) -> float:
    """Read a number as ``wording.number`` writes it."""
    return float(written.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def _count(claims: Sequence[JudgedClaim], verdict: Verdict) -> int:
    return sum(judged.verdict is verdict for judged in claims)


def _row(judged: JudgedClaim) -> list[str]:
    deciding = judged.deciding
    several = f" ({judged.holding} of {len(judged.effects)} effects hold)" if len(judged.effects) > 1 else ""
    says = f"{deciding.effect.says}{several}"
    return [judged.claim.id, judged.claim.says, says, *_numbers(deciding), str(judged.verdict)]


def _numbers(judged: JudgedEffect) -> list[str]:
    effect, found = judged.effect, judged.estimate
    digits = 1 if effect.unit else 3
    side = "above" if effect.sign > 0 else "below"
    threshold = f"{effect.threshold:g}".replace("-", "\N{MINUS SIGN}")
    claimed = f"{side} {_with_unit(threshold, effect)}"
    if found is None:
        return [NOTHING, NOTHING, NOTHING, claimed]
    count = f"{found.spread.n:,}" if found.counted == "seeds" else f"{found.spread.n:,} {found.counted}"
    mean = _with_unit(number(found.spread.mean, digits), effect)
    return [mean, count, interval(found.spread, digits) or NOTHING, claimed]


def _with_unit(text: str, effect: Effect) -> str:
    return f"{text} {effect.unit}".strip()


def _section(judged: JudgedClaim, reports: Path) -> str:
    claim = judged.claim
    rows = [[*_named(each.effect), *_numbers(each), str(each.finding)] for each in judged.effects]
    parts = [
        f"## {claim.id}: {claim.says}",
        f"Source: {claim.source}. Verdict: **{judged.verdict}**.",
        _table(("effect", "what is measured", *HEADINGS[3:7], "finding"), rows),
        "\n".join(f"- {line}" for line in _origins(judged, reports)),
    ]
    if judged.verdict in (Verdict.CONTRADICTED, Verdict.OPEN):
        parts.append(f"Why not: {claim.explanation or 'unknown'}")
    return "\n\n".join(parts)


def _named(effect: Effect) -> list[str]:
    return [effect.says, " minus ".join(map(str, effect.values))]


def _origins(judged: JudgedClaim, reports: Path) -> Iterator[str]:
    """Yield every place that the claim's numbers come from, and every reason why one is missing."""
    lines: dict[str, None] = {}
    for each in judged.effects:
        found = each.estimate
        if found is None:
            lines[f"Missing: {each.reason}"] = None
            continue
        files = ", ".join(f"[{name}](../{(reports / name).as_posix()})" for name in found.files)
        seeds = f"; seeds {', '.join(map(str, found.seeds))}" if found.seeds else ""
        lines[f"From {files}; {', '.join(found.protocols)}{seeds}"] = None
    yield from lines


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if heading in NUMBERS else ":---" for heading in headings]
    return "\n".join(f"{_cells(line)} |" for line in (headings, rule, *rows))


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', BAR) for text in row)}"
