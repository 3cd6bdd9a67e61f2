"""What several stages read before they start: the data root, a data set, numerics versions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import plugins
from engine.checkpoints import ROOT as CHECKPOINTS
from engine.checkpoints import Checkpoints
from engine.images.presence import data_root
from engine.journal import Journal
from engine.machine import Machine
from engine.progress import progress_of
from engine.protocols import Source, Split
from engine.spec import DatasetSpec
from engine.specfiles import load, read_document


def load_dataset(name: str) -> tuple[DatasetSpec, Split]:
    """Return a data set's spec and its images; nothing is ever downloaded here."""
    spec: DatasetSpec = load("datasets", name)
    with progress_of(f"read {name}") as progress:
        split: Split = plugins.build("datasets", spec, root=data_root(), progress=progress)
    return spec, split


def source_of(spec: DatasetSpec, split: Split) -> Source:
    """Return what a network must know of a data set."""
    return Source(spec.mean, spec.std, len(split.train.class_names))


def numerics(stage: str) -> int:
    """Return the version of the numbers that a stage makes."""
    versions = read_document(Path(__file__).parents[1] / "numerics.yaml").content
    return int(versions[stage])


def journal_of(stage: str, dataset: str, key: str, about: dict[str, Any], machine: Machine) -> Journal:
    """Return the journal of a stage's job, with its checkpoints under ``.work``."""
    checkpoints = Checkpoints(CHECKPOINTS / f"{stage}-{dataset}-{key}", about)
    return Journal(checkpoints, interval=60 * machine.checkpoint_minutes)


def command_of(stage: str, options: Mapping[str, object]) -> tuple[str, ...]:
    """Return the interpreter's arguments that run a stage."""
    named = (("--" + name, str(value)) for name, value in options.items())
    return ("-m", "engine", stage, *itertools.chain.from_iterable(named))
