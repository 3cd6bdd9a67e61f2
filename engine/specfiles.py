"""Spec files: YAML read with positions, so that every fault names its file, line, column and key."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from engine import plugins
from engine.errors import EngineError
from engine.spec import ProtocolSpec, Spec

ROOT = Path("specs")
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong with a spec: where, what, and what to do."""

    file: Path
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class SpecFault(EngineError):
    """One or more specs are wrong; ``faults`` lists every one."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = sorted(set(faults))
        count = f"{len(self.faults)} faults in specs:" if len(self.faults) > 1 else "a spec is wrong:"
        super().__init__("\n".join([count, *map(str, self.faults)]))


@dataclass
class Document:
    """A YAML file: its values, and where each key stands."""

    file: Path
    content: Any = None
    positions: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, path: Sequence[str | int], message: str) -> Fault:
        """Build a fault at a key, or at the closest enclosing key that the file has."""
        known = tuple(path)
        while known and known not in self.positions:
            known = known[:-1]
        line, column = self.positions.get(known, (1, 1))
        return Fault(self.file, line, column, ".".join(map(str, path)), message)


def read_document(file: Path) -> Document:
    """Read a YAML 1.2 file; what is wrong with its syntax is in the document's faults."""
    document = Document(file)
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True  # they are found below, all of them, not only the first
    try:
        text = file.read_text(encoding="utf-8")
        tree = yaml.compose(text)
        document.content = yaml.load(text)
    except FileNotFoundError:
        document.faults.append(Fault(file, 1, 1, "", "there is no such file"))
    except UnicodeDecodeError as error:
        document.faults.append(Fault(file, 1, 1, "", f"is not UTF-8 text: {error}"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        document.faults.append(Fault(file, line, column, "", f"is not YAML: {error.problem or error.context}"))
    else:
        _walk(tree, (), document)
    return document


def _walk(node: Node | None, path: KeyPath, document: Document) -> None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            here = (*path, key.value if isinstance(key, ScalarNode) else str(key.value))
            if here in document.positions:
                first = document.positions[here][0]
                line, column = key.start_mark.line + 1, key.start_mark.column + 1
                name = ".".join(map(str, here))
                document.faults.append(
                    Fault(document.file, line, column, name, f"is given twice; first in line {first}")
                )
                continue
            document.positions[here] = (key.start_mark.line + 1, key.start_mark.column + 1)
            _walk(value, here, document)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            document.positions[*path, index] = (item.start_mark.line + 1, item.start_mark.column + 1)
            _walk(item, (*path, index), document)


def suggest(given: str, allowed: Sequence[str]) -> str:
    """Say what is allowed, and what was probably meant."""
    close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint}; allowed: {', '.join(sorted(allowed)) or 'none'}"


def parse(document: Document, model: Any) -> Any:
    """Return the spec that a document declares, or None after adding its faults to the document."""
    if document.faults:
        return None
    if not isinstance(document.content, dict):
        document.faults.append(document.fault((), f"holds {_shown(document.content)}, expected keys and values"))
        return None
    try:
        # JSON mode: strict about types, yet YAML's lists may be tuples and its integers floats.
        return TypeAdapter(model).validate_json(json.dumps(document.content, default=str))
    except ValidationError as error:
        for details in error.errors():
            document.faults.append(_explain(document, model, details))
    return None


def _explain(document: Document, model: Any, details: Any) -> Fault:
    path = tuple(_without_tags(details["loc"], document.content))
    kind, context, given = details["type"], details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        owner = _model_at(model, document.content, path[:-1])
        allowed = sorted(owner.model_fields) if owner else []
        return document.fault(path, f"is not a known key{suggest(str(path[-1]), allowed)}")
    if kind == "missing":
        return document.fault(path, "is required and missing")
    if kind in ("union_tag_invalid", "union_tag_not_found", "literal_error"):
        expected = str(context.get("expected_tags") or context.get("expected") or "one of the kinds")
        allowed = [name.strip().strip("'") for name in expected.replace(" or ", ", ").split(",") if name.strip()]
        value = context.get("tag", given) if kind == "union_tag_invalid" else given
        where = (*path, "kind") if kind.startswith("union_tag") else path
        if kind == "union_tag_not_found":
            return document.fault(where, "is required and missing" + suggest("", allowed if len(allowed) > 1 else []))
        return document.fault(where, f"given {_shown(value)}{suggest(str(value), allowed)}")
    message = str(details["msg"]).removeprefix("Value error, ")
    if kind == "value_error" and isinstance(given, dict):
        key, _, rest = message.partition(": ")  # validators over several fields open with the one to blame
        return document.fault((*path, *key.split(".")), rest)
    return document.fault(path, f"{message[:1].lower()}{message[1:]}, given {_shown(given)}")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without_tags(loc: Sequence[str | int], content: Any) -> Iterator[str | int]:
    """Drop what pydantic adds to a location: the tags of unions and the names of types."""
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(content, dict) and part in content:
            content = content[part]
            yield part
        elif isinstance(content, list) and isinstance(part, int):
            content = content[part] if part < len(content) else None
            yield part
        elif last and isinstance(content, dict) and isinstance(part, str) and part != content.get("kind"):
            yield part  # a missing key


def _model_at(model: Any, content: Any, path: KeyPath) -> type[BaseModel] | None:
    """Return the model that holds the keys at a path, following ``kind`` where there are several."""
    annotation, found = model, _choose(model, content)
    for part in path:
        if isinstance(part, str):  # a place in a list has the list's annotation
            annotation = found.model_fields[part].annotation if found and part in found.model_fields else model
        content = content[part]
        found = _choose(annotation, content) or found
    return found


def _choose(annotation: Any, content: Any) -> type[BaseModel] | None:
    models = list(_models_in(annotation))
    kind = content.get("kind") if isinstance(content, dict) else None
    for candidate in models:
        declared = candidate.model_fields.get("kind")
        if len(models) == 1 or (declared and kind in typing.get_args(declared.annotation)):
            return candidate
    return None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


GROUPS = ("datasets", "attacks", "victims", "defenses", "protocols", "layouts")
"""The groups of component specs; studies are read by ``engine.study``."""


def model_of(group: str) -> Any:
    """Return the type of a group's specs."""
    return ProtocolSpec if group == "protocols" else plugins.spec_of(group)


def names(group: str) -> tuple[str, ...]:
    """Return the names declared in a group: its YAML files."""
    folder = ROOT / group
    return tuple(sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")))


def file_of(group: str, name: str) -> Path:
    """Return the file that declares a name."""
    return ROOT / group / f"{name}.yaml"


def load(group: str, name: str) -> Any:
    """Return a declared spec.

    Raises:
        SpecFault: there is no such name, or its file is wrong; every fault of the file is listed.
    """
    file = file_of(group, name)
    if not file.is_file():
        raise SpecFault([Fault(file, 1, 1, "", f"{group} has no {name!r}{suggest(name, names(group))}")])
    document = read_document(file)
    spec = parse(document, model_of(group))
    if document.faults:
        raise SpecFault(document.faults)
    return spec


def write_spec(file: Path, group: str, content: dict[str, Any]) -> None:
    """Write a spec's file, with the line that lets editors check it."""
    with file.open("w") as stream:
        stream.write(f"# yaml-language-server: $schema=../../schemas/{group}.json\n")
        YAML().dump(content, stream)


def resolved(spec: Spec) -> dict[str, Any]:
    """Return a spec with every default filled in, as plain values."""
    return spec.model_dump(mode="json")
