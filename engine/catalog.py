"""What the engine offers: kinds with their cards, declared names, JSON Schemas."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from engine import plugins
from engine.artifacts.manifest import Manifest
from engine.claims.spec import ClaimsFile
from engine.params import Params
from engine.specfiles import GROUPS, Document, file_of, model_of, names, read_document
from engine.study import StudyFile

SCHEMAS = Path("schemas")
PAGE = Path("docs/catalog.md")
CARD_LINE = re.compile(r"^(?P<key>[A-Z][A-Za-z ]+): (?P<value>.+)$")


def card(group: str, kind: str) -> dict[str, str]:
    """Return a plugin's card: the summary and the ``Key: value`` lines of its module's docstring."""
    text = inspect.getdoc(plugins.module_of(group, kind)) or ""
    fields = {"Summary": text.split("\n\n")[0].replace("\n", " ")}
    key = ""
    for line in text.split("\n")[1:]:
        if match := CARD_LINE.match(line):
            key = match["key"]
            fields[key] = match["value"]
        elif key and line.startswith("    "):
            fields[key] += " " + line.strip()
        else:
            key = ""
    return fields


def catalog() -> dict[str, dict[str, Any]]:
    """Return {group: {kind: {card fields, "names": [...]}}} for every group that has kinds."""
    found: dict[str, dict[str, Any]] = {}
    for group in plugins.PACKAGES:
        declared = {name: _kind_in(read_document(file_of(group, name))) for name in names(group)}
        found[group] = {
            kind: {**card(group, kind), "names": [name for name in declared if declared[name] == kind]}
            for kind in plugins.kinds(group)
        }
    found["protocols"] = {
        "protocol": {
            "Summary": "How encoders are judged, and what a paper's numbers rest on.",
            "names": list(names("protocols")),
        }
    }
    found["studies"] = {"study": {"Summary": "A grid of cells.", "names": list(names("studies"))}}
    return found


def as_text(found: dict[str, dict[str, Any]]) -> str:
    """Write a catalog as indented lines: groups, kinds with their summaries, names."""
    lines = []
    for group, kinds in found.items():
        lines.append(group)
        for kind, fields in kinds.items():
            lines += [f"  {kind}: {fields['Summary']}", *(f"    {name}" for name in fields["names"])]
    return "\n".join(lines)


def write_page(file: Path = PAGE) -> Path:
    """Write what every plugin is, from whom, and how it differs from its paper, as a page of documentation."""
    parts = ["# What there is", "Written by `python -m engine schema` from the cards of the plugins: do not edit."]
    for group, kinds in catalog().items():
        if group not in plugins.PACKAGES:
            continue
        parts.append(f"## {group.capitalize()}")
        for kind, fields in kinds.items():
            lines = [f"- {key}: {value}" for key, value in fields.items() if key not in ("Summary", "Name", "names")]
            title = fields["Name"] if fields["Name"] == kind else f"{fields['Name']} (`{kind}`)"
            parts.append(f"### {title}\n\n{fields['Summary']}\n\n" + "\n".join(lines))
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n\n".join(parts) + "\n")
    return file


def _kind_in(document: Document) -> Any:
    return document.content.get("kind") if isinstance(document.content, dict) else None


def write_schemas(folder: Path = SCHEMAS) -> list[Path]:
    """Write one JSON Schema per group of specs and of what else people read, for editors, and return the files."""
    folder.mkdir(exist_ok=True)
    models = {group: model_of(group) for group in GROUPS}
    models |= {"studies": StudyFile, "claims": ClaimsFile, "params": Params, "manifest": Manifest}
    written = []
    for group, model in models.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(model).json_schema()}
        file = folder / f"{group}.json"
        file.write_text(json.dumps(schema, indent=2, sort_keys=True) + "\n")
        written.append(file)
    return written
