"""What a report says, gathered once and written in every form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.reporting.board import Board
from engine.reporting.boards import boards
from engine.reporting.results import Results
from engine.reporting.tables import Row, Summary, accuracy_rows, summarise
from engine.reporting.visibility import visibility_board


@dataclass(frozen=True)
class Content:
    """The numbers of a study in all tables; ``about`` holds its specs and the provenance."""

    results: Results
    rows: list[Row]
    summaries: list[Summary]
    boards: list[Board]
    about: Mapping[str, Any]


def gather(results: Results, perturbations: list[dict[str, Any]], about: Mapping[str, Any]) -> Content:
    """Compute every table of a study; ``perturbations`` says what was measured of every poison's."""
    rows = accuracy_rows(results)
    summaries = summarise(rows)
    looks = [visibility_board(perturbations)] if perturbations else []
    return Content(results, rows, summaries, [*boards(results, summaries), *looks], about)
