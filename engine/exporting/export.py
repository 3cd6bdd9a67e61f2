"""Write a poisoned data set in another form."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from engine.artifacts import read_manifest
from engine.artifacts.files import ArtifactError
from engine.exporting import forms as package


def known_forms() -> tuple[str, ...]:
    """Return the names of all forms, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def export(folder: Path, form: str, target: Path) -> Path:
    """Write a poisoned data set in a form, and return where it lies; the same artifact gives the same bytes.

    Raises:
        ArtifactError: there is no such form, no artifact, a damaged one, one that the form cannot hold, or something
            in the target's place.
        NotWritten: the disk is full, or does not let this user write.
    """
    folder, target = folder.absolute(), target.absolute()
    if form not in known_forms():
        raise ArtifactError(f"there is no form {form!r}; known are {', '.join(known_forms())}")
    if folder == target or folder in target.parents:
        raise ArtifactError(f"{target} lies in the poison itself; name another place")
    if target.exists():
        raise ArtifactError(f"{target} is there already; name another place, or remove it")
    manifest = read_manifest(folder)
    importlib.import_module(f"{package.__name__}.{form}").write(folder, manifest, target)
    return target
