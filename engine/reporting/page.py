"""The page: everything a reader needs in one file that works without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

from engine.reporting import sections
from engine.reporting.boards import boards
from engine.reporting.defended import Defended
from engine.reporting.figures import inks
from engine.reporting.pictures import MAGNIFICATION
from engine.reporting.results import Results
from engine.reporting.sheet import Sheet
from engine.reporting.tables import Row, Summary
from engine.reporting.wording import NOTHING, columns_of

TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    results: Results,
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    sheets: Mapping[str, Sheet],
    shown: Defended | None,
    about: dict[str, Any],
) -> str:
    """Return the page as HTML.

    ``sheets`` holds every figure under its file's stem, ``shown`` images under defenses where there are any,
    ``about`` the specs and the provenance.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = sections.data_uri
    return environment.get_template("report.html.j2").render(
        study=results.study,
        columns=columns_of(rows),
        nothing=NOTHING,
        several=len(results.study.victims) * len(results.study.defenses) > 1,
        inks=inks(results.study, results.reference),
        cards=sections.cards(results, summaries),
        boards=boards(results, summaries),
        groups=sections.accuracy_groups(results, summaries),
        seeds=sections.seed_lines(rows) if len(results.study.seeds) > 1 else [],
        sheets=sheets,
        pictures=sections.picture_rows(results),
        magnification=MAGNIFICATION,
        defended=shown,
        strips=sections.defended_rows(shown),
        costs=sections.costs(results),
        missing=results.missing,
        total=sections.totals(results),
        protocols=sections.protocols(results),
        specs={group: {name: _yaml(spec) for name, spec in found.items()} for group, found in about["specs"].items()},
        provenance=about["provenance"],
    )


def _yaml(spec: dict[str, Any]) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None  # lists of numbers stay on one line
    yaml.dump(spec, stream)
    return stream.getvalue()
