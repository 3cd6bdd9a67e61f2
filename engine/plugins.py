"""The registry: a kind is a file. ``specs/attacks`` with ``kind: clean`` means ``engine/attacks/clean.py``.

A plugin module exports ``Spec`` and ``build``, and imports torch only inside functions: specs are read,
checked and listed without it.
"""

from __future__ import annotations

import functools
import importlib
import operator
import pkgutil
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from engine.spec import Spec

PACKAGES = {
    "attacks": "engine.attacks",
    "backbones": "engine.backbones",
    "datasets": "engine.datasets",
    "defenses": "engine.defenses",
    "layouts": "engine.executors",
    "victims": "engine.victims",
}
"""The groups that have kinds, and the package in which each group's files lie."""


def kinds(group: str) -> tuple[str, ...]:
    """Return the kinds of a group, sorted: the names of its files."""
    package = importlib.import_module(PACKAGES[group])
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def module_of(group: str, kind: str) -> ModuleType:
    """Import the file of one kind."""
    return importlib.import_module(f"{PACKAGES[group]}.{kind}")


@functools.cache
def spec_of(group: str, trait: str | None = None) -> Any:
    """Return the type of a group's specs: the union over its kinds, told apart by ``kind``.

    With a trait, only those kinds are allowed whose specs have it: a class variable that is true.
    """
    specs = tuple(module_of(group, kind).Spec for kind in kinds(group))
    if trait is not None:
        specs = tuple(spec for spec in specs if getattr(spec, trait))
    if len(specs) == 1:
        return specs[0]
    return Annotated[functools.reduce(operator.or_, specs), Field(discriminator="kind")]


def build(group: str, spec: Spec, **context: Any) -> Any:
    """Build what a spec declares, with what its group's ``build`` functions are given."""
    return module_of(group, spec.kind).build(spec, **context)  # type: ignore[attr-defined]
