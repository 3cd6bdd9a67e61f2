"""An extension of Griffe: docstrings as this project writes them.

A line such as ``Source: He et al. 2020, eq. 1`` becomes a paragraph of its own, and a field without a docstring is
described by the comment above it or behind it.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension, Object

LABELS = ("Name", "Paper", "Threat model", "Official code", "Deviations", "Shapes", "Units", "Source", "Deviates")
LABELLED = re.compile(rf"^({'|'.join(LABELS)}): ?", re.MULTILINE)
TOOLS = re.compile(r"\s*(noqa|type): ?\S+")
"""Comments that speak to tools."""


class ProjectDocstrings(Extension):
    """See the module."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Set the labelled lines of a docstring apart."""
        if obj.docstring:
            obj.docstring.value = apart(obj.docstring.value)

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **_: Any) -> None:
        """Describe a field of a class by its comment."""
        in_class = attr.parent is not None and attr.parent.is_class
        if attr.docstring is None and in_class and isinstance(node, ast.AnnAssign) and isinstance(attr.filepath, Path):
            text = comment_of(attr.filepath, node)
            if text:
                attr.docstring = Docstring(text, lineno=node.lineno, parent=attr)


def apart(text: str) -> str:
    """Put an empty line before each labelled line, and its label in bold."""
    return LABELLED.sub(lambda match: f"\n**{match[1]}:** ", text)


def comment_of(file: Path, node: ast.AnnAssign) -> str:
    """Return the comment of a field: that behind it, or the whole lines above it."""
    lines = lines_of(file)
    last = node.end_lineno or node.lineno
    behind = lines[last - 1].encode()[node.end_col_offset or 0 :].decode()
    if behind.strip().startswith("#"):
        return _clean(behind)
    first = node.lineno - 1
    while first and lines[first - 1].strip().startswith("#"):
        first -= 1
    return _clean(" ".join(line.strip().lstrip("# ") for line in lines[first : node.lineno - 1]))


@functools.cache
def lines_of(file: Path) -> tuple[str, ...]:
    """Return a source file's lines."""
    return tuple(file.read_text().splitlines())


def _clean(comment: str) -> str:
    text = TOOLS.sub("", comment.strip().lstrip("#").strip())
    return text[:1].upper() + text[1:]
