"""Which form a released poison has, and its reader: a layout is a file of ``layouts/``."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from engine.importing import layouts
from engine.importing.found import Found, ImportFault

if TYPE_CHECKING:
    from engine.protocols import ImageSet

ENDINGS = {".pth": "official", ".pt": "tensor", ".npz": "npz", ".tar": "webdataset"}


def known_layouts() -> tuple[str, ...]:
    """Return the names of all layouts, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(layouts.__path__)))


def layout_of(source: Path) -> str:
    """Return the layout that a name suggests.

    Raises:
        ImportFault: there is nothing, or its name says nothing.
    """
    if source.is_dir():
        return "webdataset" if any(source.glob("*.tar")) else "imagefolder"
    if not source.is_file():
        raise ImportFault(f"there is no file or folder {source.absolute()}")
    if source.suffix.lower() not in ENDINGS:
        known = ", ".join(known_layouts())
        raise ImportFault(f"{source} ends like no known form; say which it has with --layout ({known})")
    return ENDINGS[source.suffix.lower()]


def read(source: Path, layout: str, clean: ImageSet) -> Found:
    """Read a released poison; nothing in it is executed, and nothing much larger than the clean images is read.

    Raises:
        ImportFault: it is not there, is damaged, or has another form.
    """
    if not source.exists():
        raise ImportFault(f"there is no file or folder {source.absolute()}")
    found: Found = importlib.import_module(f"{layouts.__name__}.{layout}").read(source, clean)
    return found


def fingerprint(source: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and their names, in hexadecimal.

    Raises:
        ImportFault: there is nothing.
    """
    if source.is_file():
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not source.is_dir():
        raise ImportFault(f"there is no file or folder {source.absolute()}")
    digest = hashlib.sha256()
    for file in sorted(file for file in source.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(source).as_posix()}\0{fingerprint(file)}\n".encode())
    return digest.hexdigest()
