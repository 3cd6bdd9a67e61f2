"""What a run says: a table on the terminal, JSON, and the pages under docs/benchmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.registry import Benchmark

Row = dict[str, Any]
Run = dict[str, Any]
"""Of one number of threads: ``threads``, ``comparisons`` {name: row} and ``tables`` {title: rows}."""

WIDTH = 120

HOW = """\
`python -m benchmarks` wrote this page. Both sides of every comparison run in one process, in turn, several times; the
numbers are medians. Memory is allocated as in the engine's own runs (`engine.machine`), for both sides.
"""
ERRORS = """\
# Errors against Pillow

Largest / mean absolute difference from Pillow's result in grey levels, over the whole range of the paper's CIFAR views,
on {count} random smooth images with patches of saturated colours; 32 x 32 pixels, shrinking from 96 x 96. Pillow's
results are whole levels: an exact real number is 0.25 levels away on average where Pillow rounds and 0.5 where it cuts
fractions off. `python -m benchmarks` wrote this page.
"""


def show(comparisons: dict[str, Row], declared: dict[str, Benchmark], threads: int) -> None:
    """Print comparisons and whether they reach their targets."""
    table = Table(title=f"{threads} thread{'s' * (threads > 1)}")
    for column in ("benchmark", "ours", "theirs", "unit", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in ("benchmark", "unit", "") else "right", no_wrap=True)
    for name, row in comparisons.items():
        word = verdict(row, declared[name])
        style = {"reached": "green", "missed": "red"}.get(word, "yellow")
        numbers = [number(row[key]) for key in ("ours", "theirs")]
        goal = target(declared[name])
        table.add_row(name, *numbers, row["unit"], number(row["ratio"]), goal, f"[{style}]{word}[/{style}]")
    console = Console()
    console.width = max(console.width, WIDTH)  # a pipe counts as 80 columns
    console.print(table)


def verdict(row: Row, declared: Benchmark) -> str:
    """Say in a word what came of a target."""
    if row["ours"] is None:
        return "rival not installed: make bench"
    reached = declared.reached(row)
    return "no target" if reached is None else "reached" if reached else "missed"


def target(declared: Benchmark) -> str:
    """Write a target with its direction."""
    if declared.target is None:
        return "-"
    sign = ">=" if declared.better == "larger" else "<="
    return f"{sign} {declared.target:g}{f' {declared.unit}' if declared.judged == 'ours' else ''}"


def number(value: Any) -> str:
    """Write a number with three digits that count."""
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def write_json(file: Path, content: Any) -> None:
    """Write JSON, with the folder it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


def results_page(machine: Row, runs: Sequence[Run], declared: dict[str, Benchmark], themes: list[ModuleType]) -> str:
    """Return the page of a full run."""
    about = "; ".join(f"{key} {value}" for key, value in machine.items())
    parts = ["# Benchmarks", HOW, f"Measured on: {about}.", "![views and steps](results.png)", "## Targets"]
    rows = [
        {
            "benchmark": f"`{name}`",
            "what": declared[name].what.rstrip("."),
            "threads": run["threads"],
            **{key: row[key] for key in ("ours", "theirs", "unit", "ratio")},
            "target": target(declared[name]),
            "": verdict(row, declared[name]),
        }
        for name in declared
        for run in runs
        for row in [run["comparisons"][name]]
    ]
    parts.append(markdown(rows))
    for theme in themes:
        rows = [{"threads": run["threads"], **row} for run in runs for row in run["tables"][theme.TITLE]]
        parts += [f"## {theme.TITLE}", theme.NOTE, markdown(rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def errors_page(errors: dict[str, dict[str, tuple[float, float]]], count: int) -> str:
    """Return the page of errors against Pillow."""
    rows = [
        {"operation": title, **{name: f"{most:.2f} / {mean:.2f}" for name, (most, mean) in row.items()}}
        for title, row in errors.items()
    ]
    return ERRORS.format(count=count) + "\n" + markdown(rows) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """Return rows with the same keys as a table."""
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *[[number(row[key]) for key in keys] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
