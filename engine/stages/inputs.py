"""What several stages read before they start: the layout, the data root, a data set, numerics versions."""

from __future__ import annotations

import os
from pathlib import Path

from engine import plugins
from engine.progress import progress_of
from engine.protocols import Executor, Source, Split
from engine.spec import DatasetSpec
from engine.specfiles import load, read_document


def data_root() -> Path:
    """Return the folder under which data sets lie: ``ENGINE_DATA``, by default ``data``."""
    return Path(os.environ.get("ENGINE_DATA", "data"))


def load_executor(layout: str) -> Executor:
    """Build the executor that a layout declares."""
    executor: Executor = plugins.build("layouts", load("layouts", layout))
    return executor


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
