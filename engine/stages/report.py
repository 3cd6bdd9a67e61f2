"""Report: turn a study's results into tables, figures and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.artifacts import atomic_directory
from engine.reporting.results import Results, read_results
from engine.reporting.tables import Summary, accuracy_rows, summarise
from engine.study import load_study

REPORTS = Path("reports")
WIDTH_OF_LOGS = 220
MOST_GAPS = 5


def report(study_name: str) -> Path:
    """Write ``reports/<study>/``, print the accuracy table, and return the folder.

    What is missing is listed, in the table and on the page; it is no error.
    """
    from engine.reporting.defended import defended, draw_defended
    from engine.reporting.figures import draw_accuracy, draw_losses
    from engine.reporting.page import render_page
    from engine.reporting.pictures import draw_perturbations
    from engine.reporting.provenance import provenance, resolved_specs
    from engine.reporting.records import write_records

    results = read_results(load_study(study_name))
    rows = accuracy_rows(results)
    summaries = summarise(rows)
    about = {"specs": resolved_specs(results), "provenance": provenance(results)}
    figures = {"accuracy": draw_accuracy(results, summaries), "loss": draw_losses(results)}
    shown = defended(results)
    target = REPORTS / results.study.name
    with atomic_directory(target) as folder:
        write_records(folder, results, rows, summaries, about)
        (folder / "accuracy.png").write_bytes(figures["accuracy"].png())
        (folder / "loss_curves.png").write_bytes(figures["loss"].png())
        (folder / "perturbations.png").write_bytes(draw_perturbations(results).png())
        if shown is not None:
            (folder / "defenses.png").write_bytes(draw_defended(shown).png())
        page = render_page(results, rows, summaries, figures, shown, about)
        (folder / "index.html").write_text(page, encoding="utf-8")
    _print(results, summaries, target / "index.html")
    return target


def show(study_name: str) -> None:
    """Print a study's accuracy table and where its page lies, from what is there; write nothing."""
    results = read_results(load_study(study_name))
    _print(results, summarise(accuracy_rows(results)), REPORTS / results.study.name / "index.html")


def _print(results: Results, summaries: Sequence[Summary], page: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from engine.reporting.boards import boards
    from engine.reporting.records import table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_LOGS)
    accuracies = (
        f"{results.study.name}: accuracy on clean test images",
        *table(results, summaries, lambda _: "missing"),
    )
    short = [(board.title, board.headings, board.lines) for board in boards(results, summaries) if board.is_short]
    for title, headings, lines in (accuracies, *short):
        shown = Table(*headings, title=title, title_justify="left")
        for line in lines:
            shown.add_row(*map(Text, line))
        console.print(shown)
    for gap in results.missing[:MOST_GAPS]:
        console.print(f"missing: run `{gap.command}`", markup=False, soft_wrap=True)
    if len(results.missing) > MOST_GAPS:
        console.print(f"and {len(results.missing) - MOST_GAPS} more; the page lists them all")
    console.print(str(page), soft_wrap=True)
