"""The page: everything a reader needs in one file that works without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

from engine.reporting import sections
from engine.reporting.content import Content
from engine.reporting.defended import Defended
from engine.reporting.inks import inks
from engine.reporting.pictures import MAGNIFICATION
from engine.reporting.results import precisions
from engine.reporting.sheet import Sheet
from engine.reporting.wording import NOTHING, columns_of

TEMPLATES = Path(__file__).parent / "templates"
PLACED = ("perturbations", "cost", "time")
"""Tables that stand in sections of their own, behind the accuracies."""


def render_page(content: Content, sheets: Mapping[str, Sheet], shown: Defended | None) -> str:
    """Return the page as HTML.

    ``sheets`` holds every figure under its file's stem, ``shown`` images under defenses where there are any.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = sections.data_uri
    results, summaries, about = content.results, content.summaries, content.about
    placed = {board.name: board for board in content.boards if board.name in PLACED}
    return environment.get_template("report.html.j2").render(
        study=results.study,
        columns=columns_of(content.rows),
        nothing=NOTHING,
        several=len(results.study.victims) * len(results.study.defenses) > 1,
        inks=inks(results),
        cards=sections.cards(results, summaries),
        boards=content.boards,
        comparisons=[board for board in content.boards if board.name not in PLACED],
        placed=placed,
        groups=sections.accuracy_groups(results, summaries),
        seeds=sections.seed_lines(content.rows),
        sheets=sheets,
        pictures=sections.picture_rows(results),
        magnification=MAGNIFICATION,
        defended=shown,
        strips=sections.defended_rows(shown),
        missing=results.missing,
        total=sections.totals(results),
        protocols=sections.protocols(results),
        precisions=precisions(results),
        specs={group: {name: _yaml(spec) for name, spec in found.items()} for group, found in about["specs"].items()},
        provenance=about["provenance"],
    )


def _yaml(spec: dict[str, Any]) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None  # lists of numbers stay on one line
    yaml.dump(spec, stream)
    return stream.getvalue()
