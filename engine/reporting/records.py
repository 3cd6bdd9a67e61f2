"""A report's numbers as files for machines and for papers: CSV, Markdown, JSON."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.files import write_csv, write_json
from engine.reporting.results import Results
from engine.reporting.tables import MEASURES, Row, Spread, Summary, by_setting
from engine.reporting.wording import COLUMNS, cell, count_of, missing_note, name_of
from engine.specfiles import resolved

FORMAT = 1
AXES = ("poison", "attack", "victim", "defense", "downstream")


def write_records(
    folder: Path, results: Results, rows: Sequence[Row], summaries: Sequence[Summary], about: dict[str, Any]
) -> None:
    """Write ``accuracy.csv``, ``summary.csv``, ``summary.md`` and ``study.json``.

    ``about`` is what the JSON file says beside the numbers.
    """
    write_csv(folder / "accuracy.csv", [vars(row) for row in rows])
    write_csv(folder / "summary.csv", [_flat(summary) for summary in summaries])
    (folder / "summary.md").write_text(markdown(results, summaries), encoding="utf-8")
    content = {
        "format": FORMAT,
        "study": resolved(results.study),
        "reference": results.reference,
        "poisons": {name: facts.manifest for name, facts in results.poisons.items()},
        "rows": [vars(row) for row in rows],
        "summary": [_nested(summary) for summary in summaries],
        "final_losses": {run.key: float(curve.losses[-1]) for run, curve in results.curves.items()},
        "missing": [{"stage": gap.stage, "reason": gap.reason} for gap in results.missing],
        **about,
    }
    write_json(folder / "study.json", content)


def _flat(summary: Summary) -> dict[str, Any]:
    line: dict[str, Any] = {axis: getattr(summary, axis) for axis in AXES}
    line["seeds"] = len(summary.rows)
    for measure in MEASURES:
        found = _values(summary.spreads[measure])
        line |= {measure: found["mean"], f"{measure}_sd": found["sd"], f"{measure}_n": found["n"]}
        if measure.endswith("_drop"):
            line |= {f"{measure}_ci_low": found["low"], f"{measure}_ci_high": found["high"]}
    line["probe"] = "; ".join(summary.protocols)
    return line


def _nested(summary: Summary) -> dict[str, Any]:
    described: dict[str, Any] = {axis: getattr(summary, axis) for axis in AXES}
    described["seeds"] = [row.seed for row in summary.rows]
    described["measures"] = {measure: _values(found) for measure, found in summary.spreads.items()}
    described["probe"] = list(summary.protocols)
    described["missing"] = list(summary.missing)
    return described


def _values(found: Spread | None) -> dict[str, float | int | None]:
    if found is None:
        return {"n": 0, "mean": None, "sd": None, "low": None, "high": None}
    numbers = {name: getattr(found, name) for name in ("mean", "sd", "low", "high")}
    return {"n": found.n, **{name: None if value is None else round(value, 4) for name, value in numbers.items()}}


def table(
    results: Results, summaries: Sequence[Summary], gap: Callable[[Summary], str] = missing_note
) -> tuple[list[str], list[list[str]]]:
    """Return the accuracy table as text: headings and lines, for Markdown and for terminals.

    An axis on which the study has one value has no column. ``gap`` writes what stands for a missing number.
    """
    study = results.study
    optional = {"defense": study.defenses, "downstream": study.downstream}
    axes = ["victim", *(axis for axis, values in optional.items() if len(values) > 1), "poison"]
    headings = [*axes, *(column.heading for column in COLUMNS), "n", "probe"]
    lines = []
    for summary in itertools.chain.from_iterable(by_setting(summaries).values()):
        line = [name_of(getattr(summary, axis)) for axis in axes]
        if summary.spreads["linear"] is None:
            line += [gap(summary), *[""] * (len(headings) - len(axes) - 1)]
        else:
            numbers = (" ".join(filter(None, cell(summary, column, results.reference))) for column in COLUMNS)
            line += [*numbers, count_of(summary), ", ".join(summary.protocols)]
        lines.append(line)
    return headings, lines


def markdown(results: Results, summaries: Sequence[Summary]) -> str:
    """Return the accuracy table in Markdown, with a legend."""
    headings, lines = table(results, summaries)
    numeric = len(headings) - len(COLUMNS) - 2
    rule = [":---"] * numeric + ["---:"] * (len(COLUMNS) + 1) + [":---"]
    body = "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))
    description = f"\n{results.study.description}\n" if results.study.description else ""
    return f"""# {results.study.name}
{description}
{body}

Mean ± sample standard deviation over n seeds; a value without ± is of one seed. Drops are paired against the clean
poison of the same victim, defense, seed and downstream set, with their 95 % t confidence interval. Gain removed: the
share of what clean training adds to an untrained network that the poison takes away. Probe: its training set · the
epoch that it reports.
"""
