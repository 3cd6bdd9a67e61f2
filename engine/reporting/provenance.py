"""Where a report comes from: the specs in full, the revision, the packages, the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import Any

from engine.metering import cpu_name
from engine.reporting.costs import time_records
from engine.reporting.results import Results
from engine.specfiles import resolved

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "dvc")
WRITTEN_BY_DVC = ("reports", "dvc.lock")
"""What a run itself changes: it does not make the source that ran another one."""


def resolved_specs(results: Results) -> dict[str, Any]:
    """Return every spec of a study with its defaults filled in.

    A finished poison says itself which attack and which data set made it.
    """
    dataset = results.dataset
    return {
        "dataset": {} if dataset is None else {results.study.dataset: dataset},
        "attacks": {facts.attack: facts.spec for facts in results.poisons.values()},
        "victims": results.victims,
        "defenses": {name: resolved(spec) for name, spec in results.defenses.items()},
        "protocol": {results.study.protocol: results.protocol},
    }


def provenance(results: Results) -> dict[str, Any]:
    """Return what a reader needs to make the same numbers again; no time stamp, no host name."""
    checksums = [facts.manifest["dataset"]["checksum"] for facts in results.poisons.values() if facts.manifest]
    return {
        "revision": revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device(),
        "dataset_checksum": checksums[0] if checksums else None,
        "time": list(time_records(results)),
        "command": f"python -m engine study {results.study.name} && dvc repro",
    }


def revision() -> dict[str, Any]:
    """Return the git revision of the working folder, and whether the source differs from it."""
    commit = _output("git", "rev-parse", "HEAD")
    if not commit:
        return {"commit": None, "dirty": None}
    excluded = [f":(exclude,top){path}" for path in WRITTEN_BY_DVC]
    changes = _output("git", "status", "--porcelain", "--", ":/", *excluded)
    return {"commit": commit, "dirty": bool(changes)}


def device() -> str:
    """Describe the machine that the report is made on: its processor and its GPUs."""
    described = f"{cpu_name()}, {os.cpu_count()} cores"
    if shutil.which("nvidia-smi"):
        gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
        counts = {gpu: gpus.count(gpu) for gpu in gpus}
        described += "".join(f"; {count} x {gpu}" for gpu, count in counts.items())
    return described


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Return what a program prints, or nothing where it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
