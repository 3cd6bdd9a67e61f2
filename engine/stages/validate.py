"""Validate: check every spec, every study and every cell before anything trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import ARTIFACTS, atomic_file
from engine.claims.declared import check_claims
from engine.params import FILE as PARAMS
from engine.params import Params
from engine.specfiles import (
    GROUPS,
    Document,
    Fault,
    SpecFault,
    file_of,
    model_of,
    names,
    parse,
    read_document,
    suggest,
)
from engine.stages.grid import grid_faults
from engine.study import STARTS, cells, check_study, study_file

MARK = "Every spec of this project is valid; poisons start here.\n"


@dataclass(frozen=True)
class Checked:
    """What was checked."""

    files: int
    cells: int


def check() -> tuple[Checked, list[Fault]]:
    """Check every spec file of the project, and return every fault of every one."""
    components = {(group, name): _component(group, file_of(group, name)) for group in GROUPS for name in names(group)}
    faults = [fault for document, _ in components.values() for fault in document.faults]
    specs = {key: spec for key, (_, spec) in components.items()}
    faults += _params_faults()
    count = 0
    files = [study_file(name) for name in names("studies")]
    for file in files:
        study, document = check_study(file)
        faults += document.faults
        if study is not None and not document.faults:
            count += sum(1 for _ in cells(study))
            faults += grid_faults(study, document, specs)
    claims = check_claims()
    faults += [fault for _, document in claims for fault in document.faults]
    return Checked(len(components) + len(files) + len(claims) + 1, count), sorted(set(faults))


def _component(group: str, file: Path) -> tuple[Document, Any]:
    document = read_document(file)
    return document, parse(document, model_of(group))


def _params_faults() -> list[Fault]:
    document = read_document(PARAMS)
    params: Params | None = parse(document, Params)
    if params is not None and params.layout not in (known := names("layouts")):
        document.faults.append(document.fault(("layout",), f"given {params.layout!r}{suggest(params.layout, known)}"))
    return document.faults


def validate(study_name: str) -> Checked:
    """Check the project, and mark it as valid for the stages below.

    The marks are constant files: validating again changes nothing below, whatever was edited. Those of
    ``STARTS`` are what a poison depends on when it starts from no other poison.

    Raises:
        SpecFault: something is wrong; every fault is listed.
    """
    checked, faults = check()
    if faults:
        raise SpecFault(faults)
    study, _ = check_study(study_file(study_name))
    if study is None:
        raise SpecFault([Fault(study_file(study_name), 1, 1, "", "there is no such study")])
    for start in STARTS:
        with atomic_file(ARTIFACTS / study.dataset / "poison" / start) as partial:
            partial.write_text(MARK)
    return checked
