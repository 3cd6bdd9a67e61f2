"""Atomic files and folders, guards, checksums, and the two small formats (JSON, CSV) that results are written in."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import EngineError

ARTIFACTS = Path("artifacts")
OUTPUT_ROOT = "ENGINE_OUTPUT_ROOT"
PARTIAL = Path(".work/partial")
"""Where unfinished artifacts lie: outside ``artifacts``, whose folders are inputs of later stages."""


class ArtifactError(EngineError):
    """An artifact is missing, unfinished, damaged, or of a format that this version cannot read."""


FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class NotWritten(ArtifactError):
    """The disk is full, or does not let this user write."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say what could not be written and what to do, where the disk is full or does not let this user write.

    Raises:
        NotWritten: it is, or does not.
    """
    try:
        yield
    except Exception as error:
        found = _system_error(error)
        if found is None or found[0] not in (*FULL, *REFUSED):
            raise
        number, place = found
        advice = "make room there" if number in FULL else "let this user write there"
        raise NotWritten(
            f"{target} cannot be written: {os.strerror(number)} ({Path(place or target).absolute()}); {advice}, "
            "and run the same command again: what was finished before is unchanged"
        ) from error


def _system_error(error: BaseException | None) -> tuple[int, str | None] | None:
    """Return the number of the system's error beneath an exception, and the file that it names."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno, error.filename
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors, which is written in Rust
            return int(found[1]), None
        error = error.__context__  # torch hides what its writer raised
    return None


def destination(target: Path) -> Path:
    """Return where an artifact is written: in its place, or below ``ENGINE_OUTPUT_ROOT``, from where it is moved."""
    root = os.environ.get(OUTPUT_ROOT)
    return Path(root) / target if root and ARTIFACTS in target.parents else target


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` when the block ends without an error.

    A process that dies inside the block leaves ``target`` as it was. What ``target`` held is replaced.

    Raises:
        NotWritten: see ``writing``.
    """
    target = destination(target)
    with _scratch(target) as scratch:
        partial = scratch / target.name
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        if target.exists():
            target.rename(scratch / "replaced")
        partial.rename(target)
    _sync(target.parent)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path whose file becomes ``target`` when the block ends without an error.

    Raises:
        NotWritten: see ``writing``.
    """
    target = destination(target)
    with _scratch(target) as scratch:
        partial = scratch / target.name
        yield partial
        _sync(partial)
        partial.replace(target)
    _sync(target.parent)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Outside the project there may be another disk, onto which nothing can be moved in one step.
        place = PARTIAL if Path.cwd() in target.absolute().parents else target.parent
        place.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=place))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(guard: Path, refusal: str) -> Iterator[None]:
    """Keep a second process out of what this one does; the kernel lets go when this one ends, however it ends.

    Raises:
        EngineError: another process holds the guard, a file that only guards; ``refusal`` says what that one does.
    """
    with writing(guard):
        guard.parent.mkdir(parents=True, exist_ok=True)
        held = guard.open("a+")
    with held:
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not passed on to forked processes
        except BlockingIOError:
            held.seek(0)
            raise EngineError(
                f"{refusal} (process {held.read().strip()}); wait for it, or end it with Ctrl-C"
            ) from None
        held.truncate(0)
        held.write(f"{os.getpid()}\n")
        held.flush()
        yield


def sha256(file: Path) -> str:
    """Return the checksum of a file, in hexadecimal.

    Raises:
        ArtifactError: there is no such file.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; run `dvc repro` to make it") from None


def write_json(target: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically; the same content gives the same bytes."""
    with atomic_file(target) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: there is no such file, or it is not a JSON object.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; run `dvc repro` to make it") from None
    except ValueError as error:
        raise ArtifactError(f"{file} is not JSON ({error}); remove it and run `dvc repro`") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{file} holds a {type(content).__name__}, expected a JSON object")
    return content


def write_csv(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of equal keys as CSV, atomically."""
    with atomic_file(target) as partial, partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
