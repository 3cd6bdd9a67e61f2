"""Where data sets lie, and what is said when one does not."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import EngineError


class DatasetFault(EngineError):
    """A data set is there and cannot be used as it is."""


class DatasetMissing(EngineError, FileNotFoundError):
    """A data set, or a file that belongs to it, is not where it was looked for."""


def data_root() -> Path:
    """Return the folder under which data sets lie: ``ENGINE_DATA``, by default ``data``."""
    return Path(os.environ.get("ENGINE_DATA", "data"))


def require_folder(folder: Path, *, holds: str) -> Path:
    """Return a folder that must be there.

    Raises:
        DatasetMissing: it is not; the message says what it should hold.
        DatasetFault: there is a file of that name.
    """
    if not folder.exists():
        raise DatasetMissing(
            f"there is no folder {folder.absolute()}; put {holds} there, or set ENGINE_DATA to the folder it lies under"
        )
    if not folder.is_dir():
        raise DatasetFault(f"{folder.absolute()} is a file, expected a folder that holds {holds}")
    return folder
