"""Report: turn a study's results into tables, figures and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.artifacts import atomic_directory
from engine.errors import EngineError
from engine.reporting.results import read_results
from engine.reporting.wording import plural
from engine.study import load_study

if TYPE_CHECKING:
    from rich.console import Console

    from engine.reporting.content import Content
    from engine.reporting.defended import Defended
    from engine.reporting.perturbations import Perturbations
    from engine.reporting.sheet import Sheet

Titled = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table for terminals: its title, its headings, its lines."""

REPORTS = Path("reports")
WIDTH_OF_LOGS = 220
MOST_GAPS = 5


class IncompleteStudy(EngineError):
    """A study of which something is missing, where nothing may be."""


def report(study_name: str, *, strict: bool = False) -> Path:
    """Write ``reports/<study>/``, print the accuracy table, and return the folder.

    What is missing is listed, in the table and on the page; it is no error unless ``strict``.

    Raises:
        IncompleteStudy: Strict, and something is missing; the report is written before.
    """
    from engine.reporting.content import gather
    from engine.reporting.defended import defended
    from engine.reporting.page import render_page
    from engine.reporting.perturbations import perturbations_of
    from engine.reporting.provenance import provenance, resolved_specs
    from engine.reporting.records import write_records

    results = read_results(load_study(study_name))
    about = {"specs": resolved_specs(results), "provenance": provenance(results)}
    shown, measured = defended(results), perturbations_of(results)
    content = gather(results, measured.records if measured else [], about)
    sheets = _draw(content, shown, measured)
    target = REPORTS / results.study.name
    with atomic_directory(target) as folder:
        write_records(folder, content)
        for name, sheet in sheets.items():
            (folder / f"{name}.png").write_bytes(sheet.png())
            (folder / f"{name}.svg").write_bytes(sheet.svg())
        (folder / "index.html").write_text(render_page(content, sheets, shown), encoding="utf-8")
    _print(content, target / "index.html")
    if strict and results.missing:
        raise IncompleteStudy(
            f"{study_name} lacks {plural(len(results.missing), 'result')}; `dvc repro` makes the rest"
        )
    return target


def _draw(content: Content, shown: Defended | None, measured: Perturbations | None) -> dict[str, Sheet]:
    """Draw every figure that the study has something to say in, under its file's stem."""
    from engine.reporting.cost_figure import draw_cost
    from engine.reporting.defended import draw_defended
    from engine.reporting.figures import draw_accuracy
    from engine.reporting.perturbations import draw_embeddings, draw_spectra
    from engine.reporting.pictures import draw_perturbations
    from engine.reporting.training_figures import draw_training, draw_view_distances

    results, summaries = content.results, content.summaries
    drawn = {
        "accuracy": draw_accuracy(results, summaries),
        "cost": draw_cost(results, summaries),
        "training": draw_training(results),
        "view_distances": draw_view_distances(results),
        "perturbations": draw_perturbations(results),
        "separability": draw_embeddings(measured) if measured else None,
        "spectra": draw_spectra(results, measured) if measured else None,
        "defenses": draw_defended(shown) if shown else None,
    }
    return {name: sheet for name, sheet in drawn.items() if sheet is not None}


def show(study_name: str) -> None:
    """Print a study's tables and where its page lies, from what is there; write nothing."""
    from engine.reporting.content import gather

    results = read_results(load_study(study_name))
    _print(gather(results, [], {}), REPORTS / results.study.name / "index.html")


def print_tables(*tables: Titled) -> Console:
    """Print tables as wide as the terminal, or as a log, and return what further lines are printed with."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_LOGS)
    for title, headings, lines in tables:
        shown = Table(*headings, title=title, title_justify="left")
        for line in lines:
            shown.add_row(*map(Text, line))
        console.print(shown)
    return console


def _print(content: Content, page: Path) -> None:
    from engine.reporting.records import table

    results = content.results
    accuracies = (
        f"{results.study.name}: accuracy on clean test images",
        *table(results, content.summaries, lambda _: "missing"),
    )
    short = [(board.title, board.headings, board.lines) for board in content.boards if board.is_short]
    console = print_tables(accuracies, *short)
    for gap in results.missing[:MOST_GAPS]:
        console.print(f"missing: run `{gap.command}`", markup=False, soft_wrap=True)
    if len(results.missing) > MOST_GAPS:
        console.print(f"and {len(results.missing) - MOST_GAPS} more; the page lists them all")
    console.print(str(page), soft_wrap=True)
