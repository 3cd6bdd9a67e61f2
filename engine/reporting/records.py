"""A report's numbers as files for machines and for papers: CSV, JSON, Markdown, LaTeX."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.files import write_csv, write_json
from engine.reporting.board import Board, values
from engine.reporting.content import Content
from engine.reporting.endings import training_records
from engine.reporting.latex import tabular
from engine.reporting.results import Results, precisions
from engine.reporting.tables import OWN, Row, Summary, by_setting, measures_of
from engine.reporting.wording import NOTHING, Column, cell, columns_of, count_of, missing_note, name_of, number
from engine.specfiles import resolved

FORMAT = 1
AXES = ("poison", "attack", "victim", "defense", "downstream")


def write_records(folder: Path, content: Content) -> None:
    """Write ``accuracy``, ``summary`` and every board as CSV and as LaTeX, ``training`` as CSV, and two summaries.

    These are ``summary.md`` and ``study.json``.
    """
    results, summaries, measures = content.results, content.summaries, measures_of(content.rows)
    unused = {name for name in vars(content.rows[0]) if OWN in name.split("_")} if OWN not in measures else set()
    silent = set() if precisions(results) else {"precision"}
    lines = [{**_without(unused | silent, row), "command": row.command} for row in content.rows]
    write_csv(folder / "accuracy.csv", lines)
    write_csv(folder / "summary.csv", [_flat(summary, measures) for summary in summaries])
    write_csv(folder / "training.csv", training_records(results))
    tabulated = [board for board in content.boards if board.lines]
    for board in tabulated:
        write_csv(folder / f"{board.name}.csv", board.records)
    _write_latex(folder, content, tabulated)
    text = "\n".join([markdown(results, summaries), *map(_section, content.boards)])
    (folder / "summary.md").write_text(text, encoding="utf-8")
    described = {
        "format": FORMAT,
        "study": resolved(results.study),
        "reference": results.reference,
        "poisons": {name: facts.manifest for name, facts in results.poisons.items()},
        "rows": [_without(silent, row) for row in content.rows],
        "summary": [_nested(summary) for summary in summaries],
        "boards": {board.name: board.records for board in tabulated},
        "final_losses": {run.key: float(curve.losses[-1]) for run, curve in results.curves.items()},
        "missing": [{"stage": gap.stage, "reason": gap.reason} for gap in results.missing],
        **content.about,
    }
    write_json(folder / "study.json", described)


def _without(names: Collection[str], row: Row) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name not in names}


def _write_latex(folder: Path, content: Content, boards: Sequence[Board]) -> None:
    headings, lines = table(content.results, content.summaries, lambda _: "missing")
    words = _words(headings, content.summaries)
    tables = {
        "summary": tabular("Accuracy", headings, lines, words),
        "accuracy": tabular("Accuracy of every seed", *seed_table(content.rows)),
        **{board.name: tabular(board.title, board.headings, board.lines, board.words) for board in boards},
    }
    for name, text in tables.items():
        (folder / f"{name}.tex").write_text(text, encoding="utf-8")


def seed_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], frozenset[int]]:
    """Return every single number as text: headings, lines, and which columns hold none."""
    axes, columns = ("poison", "victim", "defense", "downstream"), columns_of(rows)
    headings = [*axes, "seed", *(column.heading for column in columns), "probe"]
    lines = []
    for row in rows:
        values = [(getattr(row, column.measure), column.digits) for column in columns]
        numbers = [NOTHING if value is None else number(value, digits) for value, digits in values]
        judged = f"{row.train_set} · {row.select}" if row.linear is not None else "missing"
        lines.append([*(name_of(getattr(row, axis)) for axis in axes), str(row.seed), *numbers, judged])
    return headings, lines, frozenset({*range(len(axes)), len(headings) - 1})


def _flat(summary: Summary, measures: Sequence[str]) -> dict[str, Any]:
    line: dict[str, Any] = {axis: getattr(summary, axis) for axis in AXES}
    line["seeds"] = len(summary.rows)
    for measure in measures:
        found = values(summary.spreads[measure])
        line |= {measure: found["mean"], f"{measure}_sd": found["sd"], f"{measure}_n": found["n"]}
        if measure.endswith("_drop"):
            line |= {f"{measure}_ci_low": found["low"], f"{measure}_ci_high": found["high"]}
    return line | {"probe": "; ".join(summary.protocols), "command": summary.command}


def _nested(summary: Summary) -> dict[str, Any]:
    described: dict[str, Any] = {axis: getattr(summary, axis) for axis in AXES}
    described["seeds"] = [row.seed for row in summary.rows]
    described["measures"] = {measure: values(found) for measure, found in summary.spreads.items()}
    described["probe"] = list(summary.protocols)
    described["missing"] = list(summary.missing)
    return described


def table(
    results: Results, summaries: Sequence[Summary], gap: Callable[[Summary], str] = missing_note
) -> tuple[list[str], list[list[str]]]:
    """Return the accuracy table as text: headings and lines, for Markdown and for terminals.

    An axis on which the study has one value has no column. ``gap`` writes what stands for a missing number.
    """
    study = results.study
    optional = {"defense": study.defenses, "downstream": study.downstream}
    axes = ["victim", *(axis for axis, values in optional.items() if len(values) > 1), "poison"]
    columns = _columns(summaries)
    headings = [*axes, *(column.heading for column in columns), "n", "probe"]
    lines = []
    for summary in itertools.chain.from_iterable(by_setting(summaries).values()):
        line = [name_of(getattr(summary, axis)) for axis in axes]
        if summary.spreads["linear"] is None:
            line += [gap(summary), *[""] * (len(headings) - len(axes) - 1)]
        else:
            numbers = (" ".join(filter(None, cell(summary, column, results.reference))) for column in columns)
            line += [*numbers, count_of(summary), ", ".join(summary.protocols)]
        lines.append(line)
    return headings, lines


def _columns(summaries: Sequence[Summary]) -> tuple[Column, ...]:
    return columns_of(row for summary in summaries for row in summary.rows)


def markdown(results: Results, summaries: Sequence[Summary]) -> str:
    """Return the accuracy table in Markdown, with a legend."""
    headings, lines = table(results, summaries)
    body = _rows(headings, _rule(headings, _words(headings, summaries)), *lines)
    description = f"\n{results.study.description}\n" if results.study.description else ""
    return f"""# {results.study.name}
{description}
{body}

Mean ± sample standard deviation over n seeds; a value without ± is of one seed. Drops are paired against the clean
poison of the same victim, defense, seed and downstream set, with their 95 % t confidence interval. Gain removed: the
share of what clean training adds to an untrained network that the poison takes away. Probe: its training set · the
epoch that it reports.
"""


def _section(board: Board) -> str:
    """Return a board in Markdown."""
    lines = [[f"`{text}`" if place in board.code else text for place, text in enumerate(line)] for line in board.lines]
    body = _rows(board.headings, _rule(board.headings, board.words), *lines) if lines else ""
    return "\n\n".join(filter(None, (f"## {board.title}", body, board.note))) + "\n"


def _words(headings: Sequence[str], summaries: Sequence[Summary]) -> frozenset[int]:
    """Return which columns of the accuracy table hold no numbers: the axes, and the probe behind n."""
    last = len(headings) - 1
    return frozenset({*range(last - 1 - len(_columns(summaries))), last})


def _rule(headings: Sequence[str], words: Collection[int]) -> list[str]:
    return [":---" if place in words else "---:" for place in range(len(headings))]


def _rows(*lines: Sequence[str]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
