"""A study: the grid of cells that one spec file declares, and the paths of what each cell makes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from engine.artifacts.files import ARTIFACTS
from engine.errors import EngineError
from engine.spec import Name, Spec, StudyName
from engine.specfiles import ROOT, Document, Fault, SpecFault, names, parse, read_document, suggest

STARTS = ("zero", "uniform")
"""Where noise may start when it does not start from another poison."""


class PoisonEntry(Spec):
    """One poisoned copy of the data set: which attack makes it, and from which noise it starts."""

    attack: Name
    init: Name


class StudySpec(Spec):
    """What a study compares: every poison x victim x defense x seed, probed on every downstream set."""

    name: StudyName
    description: str = ""
    protocol: Name
    dataset: Name
    poisons: Annotated[dict[Name, PoisonEntry], Field(min_length=1)]
    victims: Annotated[tuple[Name, ...], Field(min_length=1)]
    defenses: Annotated[tuple[Name, ...], Field(min_length=1)]
    downstream: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class StudyFile(Spec):
    """The file of a study: one key, under which DVC reads it."""

    study: StudySpec


@dataclass(frozen=True)
class Cell:
    """One pretraining run: the coordinates that its command line spells out."""

    dataset: str
    poison: str
    victim: str
    defense: str
    seed: int

    @property
    def key(self) -> str:
        """Return the name under which DVC knows the cell."""
        return f"{self.poison}-{self.victim}-{self.defense}-{self.seed}"

    @property
    def encoder(self) -> Path:
        """Return where the pretrained encoder lies."""
        return ARTIFACTS / self.dataset / "encoder" / f"{self.key}.safetensors"

    @property
    def curve(self) -> Path:
        """Return where the training curve lies."""
        return ARTIFACTS / self.dataset / "curve" / f"{self.key}.csv"

    @property
    def cost(self) -> Path:
        """Return where the time and the memory of the training lie."""
        return cost_path(self.dataset, f"pretrain@{self.key}")

    def probe(self, downstream: str) -> Path:
        """Return where the accuracies on a downstream set lie."""
        return ARTIFACTS / self.dataset / "probe" / f"{self.key}-{downstream}.json"


def poison_path(dataset: str, poison: str) -> Path:
    """Return the folder of a poisoned data set."""
    return ARTIFACTS / dataset / "poison" / poison


def perturbation_path(dataset: str, poison: str) -> Path:
    """Return where what was measured of a poison's perturbation lies."""
    return ARTIFACTS / dataset / "perturbation" / f"{poison}.json"


def floor_path(dataset: str, victim: str, seed: int, downstream: str) -> Path:
    """Return where the accuracies of the untrained backbone lie."""
    return ARTIFACTS / dataset / "floor" / f"{victim}-{seed}-{downstream}.json"


def cost_path(dataset: str, stage: str) -> Path:
    """Return where the time and the memory of a stage lie, given the name under which DVC knows it."""
    return ARTIFACTS / dataset / "cost" / f"{stage.replace('@', '-')}.json"


def cells(study: StudySpec) -> Iterator[Cell]:
    """Yield every pretraining run of a study."""
    for poison, victim, defense, seed in itertools.product(study.poisons, study.victims, study.defenses, study.seeds):
        yield Cell(study.dataset, poison, victim, defense, seed)


PIPELINE = Path("dvc.yaml")
STUDY_LINE = re.compile(r"^(\s*- specs/studies/)([a-z0-9_/]+)(\.yaml\b)", re.MULTILINE)
"""The line of the pipeline that names the study which `dvc repro` runs."""


def active_study() -> str:
    """Return the study that the pipeline names.

    Raises:
        EngineError: there is no pipeline here, or it names none.
    """
    match = STUDY_LINE.search(PIPELINE.read_text()) if PIPELINE.is_file() else None
    if match is None:
        raise EngineError(
            "no study was named, and dvc.yaml of this folder has no line `- specs/studies/NAME.yaml`; "
            "run in the project's root, or give --study"
        )
    return match[2]


def activate_study(name: str) -> None:
    """Let the pipeline run a study: rewrite the one line that names it.

    Raises:
        SpecFault: see ``load_study``.
        EngineError: see ``active_study``.
    """
    load_study(name)
    if active_study() != name:
        PIPELINE.write_text(STUDY_LINE.sub(rf"\g<1>{name}\g<3>", PIPELINE.read_text(), count=1))


def study_file(name: str) -> Path:
    """Return the file that declares a study."""
    return ROOT / "studies" / f"{name}.yaml"


def load_study(name: str) -> StudySpec:
    """Return a declared study, its own file checked and its references resolved.

    Raises:
        SpecFault: see ``check_study``.
    """
    study, document = check_study(study_file(name))
    if document.faults or study is None:
        raise SpecFault(document.faults)
    return study


def check_study(file: Path) -> tuple[StudySpec | None, Document]:
    """Parse a study and check its names; every fault is in the document."""
    document = read_document(file)
    parsed: StudyFile | None = parse(document, StudyFile)
    if parsed is None:
        return None, document
    document.faults.extend(_faults(parsed.study, document))
    return parsed.study, document


def _faults(study: StudySpec, document: Document) -> Iterator[Fault]:
    named = document.file.relative_to(ROOT / "studies").with_suffix("").as_posix()
    if study.name != named:
        message = f"given {study.name!r}, must be the file's name {named!r}"
        yield document.fault(("study", "name"), message)
    yield from _unknown(document, ("study", "protocol"), study.protocol, "protocols")
    yield from _unknown(document, ("study", "dataset"), study.dataset, "datasets")
    for axis, group in (("victims", "victims"), ("defenses", "defenses"), ("downstream", "datasets")):
        for index, name in enumerate(getattr(study, axis)):
            yield from _unknown(document, ("study", axis, index), name, group)
    for axis in ("victims", "defenses", "downstream", "seeds"):
        values: tuple[Any, ...] = getattr(study, axis)
        for index, value in enumerate(values):
            if value in values[:index]:
                yield document.fault(("study", axis, index), f"{value!r} is listed twice; DVC would run it once")
    for name, entry in study.poisons.items():
        yield from _poison_faults(study, name, entry, document)


def _poison_faults(study: StudySpec, name: str, entry: PoisonEntry, document: Document) -> Iterator[Fault]:
    here = ("study", "poisons", name)
    if name in STARTS:
        yield document.fault(here, f"{name!r} is where noise starts and cannot name a poison")
    yield from _unknown(document, (*here, "attack"), entry.attack, "attacks")
    starts = (*STARTS, *(other for other in study.poisons if other != name))
    if entry.init not in starts:
        yield document.fault((*here, "init"), f"given {entry.init!r}{suggest(entry.init, starts)}")
        return
    visited, origin = [name], entry.init
    while origin in study.poisons and origin not in visited:
        visited.append(origin)
        origin = study.poisons[origin].init
    if origin in visited:
        yield document.fault((*here, "init"), f"goes round in a circle: {' <- '.join([*visited, origin])}")


def _unknown(document: Document, path: tuple[str | int, ...], name: str, group: str) -> Iterator[Fault]:
    known = names(group)
    if name not in known:
        yield document.fault(path, f"given {name!r}{suggest(name, known)} (files in {ROOT / group})")
