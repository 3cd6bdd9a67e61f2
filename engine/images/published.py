"""Published data sets, read and downloaded by torchvision."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.images.presence import DatasetMissing

STALLED_SECONDS = 60.0
"""A download that receives nothing for so long has failed."""
UNREADABLE = (RuntimeError, OSError, ValueError, AssertionError, EOFError)
"""What torchvision raises for files that are absent, cut short or of another format."""


def fetch(
    open_half: Callable[..., Any],
    halves: tuple[dict[str, Any], dict[str, Any]],
    *,
    name: str,
    root: Path,
    folder: str,
    download: bool,
) -> list[Any]:
    """Return both halves of a data set, opened by torchvision; only with ``download`` is the network used.

    ``open_half`` is a class of torchvision.datasets, ``halves`` its arguments for the training and for the test
    half, ``folder`` where it looks below the root.

    Raises:
        DatasetMissing: the files are not there, are damaged, or could not be downloaded.
    """
    try:
        with _time_limit():
            return [open_half(root, download=download, **half) for half in halves]
    except UNREADABLE as error:
        if download:
            raise DatasetMissing(
                f"{name} could not be downloaded into {(root / folder).absolute()}: {error}; "
                f"run `python -m engine download {name}` again, or put its files there by hand"
            ) from error
        raise DatasetMissing(
            f"{name} was not found in {(root / folder).absolute()}, or its files are damaged there; "
            f"run `python -m engine download {name}` to get it, or set ENGINE_DATA to the folder that holds {folder}"
        ) from error


@contextmanager
def _time_limit() -> Iterator[None]:
    """Let a connection that stalls fail; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
