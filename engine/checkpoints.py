"""Checkpoints: what an interrupted run leaves to the one that continues it, outside every result.

A checkpoint is a file of tensors and plain values, read without running anything in it, beside a JSON file of its
checksum and of what the run's result depends on. The last two are kept.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import ArtifactError, NotWritten, atomic_file, read_json, sha256, write_json, writing
from engine.errors import EngineError
from engine.processes import is_first

ROOT = Path(".work/checkpoints")
KEPT = 2
PATIENCE = 60.0
"""Seconds to wait for a process that does the same work and may be about to stop."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one job: ``about`` is everything that its result depends on, as plain values."""

    folder: Path
    about: dict[str, Any]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run of this job in this project.

        Raises:
            EngineError: another process is at it, and goes on.
        """
        if not is_first():
            yield
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            opened = (self.folder / "lock").open("a+")
        with opened as file:
            _lock(file.fileno(), self.folder)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def read(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole and of this job; say why others are not used."""
        import torch

        for described in self._described():
            file = described.with_suffix(".pt")
            try:
                about = read_json(described)
                if about.pop("sha256") != sha256(file):
                    raise ArtifactError("it is damaged: its checksum is another")
            except (ArtifactError, KeyError) as error:
                _say(f"{file} is not used: {error}")
                continue
            if reason := difference(about["about"], self.about):
                _say(f"{file} is not used: it was made with another {reason}; starting over")
                return None
            try:
                found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                _say(f"{file} is not used: it holds more than tensors and plain values, which the engine never wrote")
                continue
            _say(f"going on from {file}")
            return found
        return None

    def write(self, content: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and remove all but the last two."""
        if not is_first():
            return
        import torch

        numbers = [int(described.stem) for described in self._described()]
        file = self.folder / f"{max(numbers, default=0) + 1:06}.pt"
        try:
            # To an open file: of one that it opens itself, torch does not say that the disk is full.
            with atomic_file(file) as partial, partial.open("wb") as stream:
                torch.save(content, stream)
            write_json(file.with_suffix(".json"), {"sha256": sha256(file), "about": self.about})
        except NotWritten as error:
            # Training is worth more than its checkpoint: what was saved before stays, and the next one may fit.
            _say(f"no checkpoint could be written, and training goes on: {error}")
            return
        for described in self._described()[KEPT:]:
            described.unlink()
            described.with_suffix(".pt").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything: the job is done."""
        if is_first():
            shutil.rmtree(self.folder)

    def _described(self) -> list[Path]:
        """Return the files that describe a checkpoint, the newest first."""
        return sorted(self.folder.glob("[0-9]*.json"), reverse=True)


def difference(before: Any, now: Any, path: str = "") -> str:
    """Say in which value two descriptions differ first; nothing where they do not."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if found := difference(before.get(key), now.get(key), f"{path}.{key}" if path else key):
                return found
        return ""
    return "" if before == now else f"{path} ({before}, now {now})"


def _lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    is_said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = (folder / "lock").read_text() or "unknown"
            if time.monotonic() > deadline:
                raise EngineError(
                    f"process {holder} is doing the same work ({folder}); wait for it, or stop it with `kill {holder}`"
                ) from None
            if not is_said:
                _say(f"waiting for process {holder}, which does the same work ({folder})")
                is_said = True
            time.sleep(0.2)


def _say(message: str) -> None:
    if is_first():
        print(message, flush=True)
