"""Validate: check every spec, every study and every cell before anything trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import atomic_file
from engine.params import FILE as PARAMS
from engine.params import Params
from engine.specfiles import (
    GROUPS,
    ROOT,
    Document,
    Fault,
    SpecFault,
    model_of,
    parse,
    read_document,
    suggest,
)
from engine.study import ARTIFACTS, STARTS, StudySpec, cells, check_study, study_file

MARK = "Every spec of this project is valid; poisons start here.\n"


@dataclass(frozen=True)
class Checked:
    """What was checked."""

    files: int
    cells: int


def check() -> tuple[Checked, list[Fault]]:
    """Check every spec file of the project, and return every fault of every one."""
    components = {
        (group, file.stem): _component(group, file)
        for group in GROUPS
        for file in sorted((ROOT / group).glob("*.yaml"))
    }
    faults = [fault for document, _ in components.values() for fault in document.faults]
    params, params_faults = _params()
    faults += params_faults
    count = 0
    files = sorted((ROOT / "studies").glob("*.yaml"))
    for file in files:
        study, document = check_study(file)
        faults += document.faults
        if study is not None and not document.faults:
            count += sum(1 for _ in cells(study))
            faults += _grid_faults(study, document, {key: spec for key, (_, spec) in components.items()}, params)
    return Checked(len(components) + len(files) + 1, count), sorted(set(faults))


def _component(group: str, file: Path) -> tuple[Document, Any]:
    document = read_document(file)
    return document, parse(document, model_of(group))


def _params() -> tuple[Params | None, list[Fault]]:
    document = read_document(PARAMS)
    params: Params | None = parse(document, Params)
    if params is not None:
        for key, group in (("probe", "probes"), ("layout", "layouts")):
            name, known = getattr(params, key), [file.stem for file in (ROOT / group).glob("*.yaml")]
            if name not in known:
                document.faults.append(document.fault((key,), f"given {name!r}{suggest(name, known)}"))
    return params, document.faults


def _grid_faults(
    study: StudySpec, document: Document, specs: dict[tuple[str, str], Any], params: Params | None
) -> list[Fault]:
    """Return what is wrong between specs that are right by themselves."""
    faults = []
    for name, entry in study.poisons.items():
        attack, origin = specs[("attacks", entry.attack)], study.poisons.get(entry.init)
        before = specs[("attacks", origin.attack)] if origin else None
        if attack and before and (attack.granularity, before.granularity) == ("class", "sample"):
            message = f"{entry.attack} is class-wise and cannot start from {entry.init!r}, which is sample-wise"
            faults.append(document.fault(("study", "poisons", name, "init"), message))
    probe = specs.get(("probes", params.probe)) if params else None
    if params and probe and probe.train_set == "poisoned":
        for index, name in enumerate(study.downstream):
            if name != study.dataset:
                message = f"{PARAMS} names probe {params.probe!r}, which trains on the poisoned set; {name!r} has none"
                faults.append(document.fault(("study", "downstream", index), message))
    dataset = specs[("datasets", study.dataset)]
    for index, name in enumerate(study.victims):
        victim = specs[("victims", name)]
        if dataset and victim and (available := _train_images(dataset)) and available < victim.batch_size:
            message = f"{name} takes batches of {victim.batch_size}, but {study.dataset} has {available} images"
            faults.append(document.fault(("study", "victims", index), message))
    return faults


def _train_images(dataset: Any) -> int | None:
    """Return the size of a training set where its spec fixes it."""
    classes = getattr(dataset, "num_classes", None)
    return classes * dataset.train_per_class if classes and dataset.train_per_class else None


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
