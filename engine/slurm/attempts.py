"""The folders of a job: what it is called, where an attempt lies, who watches it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.artifacts.files import atomic_file
from engine.errors import EngineError
from engine.protocols import Job

FOLDER = Path(".work/slurm")
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def job_name(job: Job, project: Path) -> str:
    """Return a job's unique name: two projects of one user, and two configurations of one cell, differ in it.

    Raises:
        EngineError: a part of it has characters that Slurm's commands read as something else.
    """
    name = f"{prefix(project)}{job.stage}-{job.dataset}-{job.key}-{job.identity[:12]}"
    if not NAME.fullmatch(name):
        raise EngineError(f"{name!r} cannot be a Slurm job's name: use letters, digits, '_', '.' and '-' in names")
    return name


def prefix(project: Path) -> str:
    """Return what the names of all jobs of a project begin with."""
    return f"engine-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}-"


@dataclass(frozen=True)
class Attempt:
    """One submission."""

    folder: Path

    @property
    def script(self) -> Path:
        """The batch script."""
        return self.folder / "job.sh"

    @property
    def log(self) -> Path:
        """What the job printed; a requeued job appends."""
        return self.folder / "log"

    @property
    def exit(self) -> Path:
        """The job's exit code, which the script writes at the very end: not when Slurm ends or requeues the job."""
        return self.folder / "exit"

    @property
    def outs(self) -> Path:
        """What the job made, below this folder as it will lie below the project."""
        return self.folder / "outs"

    def exit_code(self) -> int | None:
        """Return the job's exit code; None before it has one."""
        # Listing the folder makes a network file system look again whether the file is there.
        there = self.exit in self.folder.iterdir()
        return int(self.exit.read_text()) if there else None

    def has_made(self, outs: Sequence[Path]) -> bool:
        """Return whether the job ended well and all that it made is still here."""
        return self.exit_code() == 0 and all((self.outs / out).exists() for out in outs)


@dataclass(frozen=True)
class Attempts:
    """All submissions under one name."""

    folder: Path

    def latest(self) -> Attempt | None:
        """Return the last one."""
        numbers = self._numbers()
        return Attempt(self.folder / str(max(numbers))) if numbers else None

    def new(self) -> Attempt:
        """Make the next one's folder."""
        folder = self.folder / str(max(self._numbers(), default=0) + 1)
        folder.mkdir(parents=True)
        return Attempt(folder)

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdigit()]

    @property
    def published(self) -> str:
        """Which attempt's outs were last moved into the project."""
        file = self.folder / "published"
        return file.read_text() if file.is_file() else ""

    def note_published(self, attempt: Attempt) -> None:
        """Write down that an attempt's outs were moved into the project."""
        with atomic_file(self.folder / "published") as partial:
            partial.write_text(attempt.folder.name)

    @contextmanager
    def watched(self) -> Iterator[bool]:
        """Hold the right to submit and to publish; yield whether another process has published meanwhile."""
        before = self.published
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                print(f"process {lock.read()} watches this job already: waiting for it", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"{os.getpid()} on {os.uname().nodename}")
            lock.flush()
            yield self.published != before
