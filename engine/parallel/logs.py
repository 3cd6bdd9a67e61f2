"""Logs of cells: where they lie, how far a cell says it is, how DVC says it went."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(".work/logs")
TAIL_BYTES, HEAD_BYTES = 4096, 65536

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROGRESS = re.compile(r"^.*: (?P<done>\d+)/(?P<total>\d+) after (?P<seconds>\d+) s\b")
IN_THE_WAY = ("Unable to acquire lock", "is busy, it is being blocked by", "Unable to read RWLock-file")
"""What DVC says where another of its processes is, or was killed while it was, in the way."""


@dataclass(frozen=True)
class Said:
    """The last line of a log, and what it lets expect of the seconds still to go."""

    line: str = ""
    remaining: float | None = None


def log_of(stage: str) -> Path:
    """Return the log of a stage's latest run."""
    return FOLDER / f"{stage.replace('/', '-').replace(':', '-')}.log"


def previous(log: Path) -> Path:
    """Return where the log of the run before is kept."""
    return log.with_suffix(".previous.log")


def open_new(log: Path, *, keep: bool) -> int:
    """Open an empty log and return its descriptor; the log before is kept as the previous one, or forgotten."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if keep and log.is_file():
        log.replace(previous(log))
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines that are not empty, without colours and what progress bars have painted over."""
    if not log.is_file():
        return []
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = (ESCAPES.sub("", line).rstrip() for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line][-count:]


def said(log: Path) -> Said:
    """Return what a running cell said last."""
    lines = last_lines(log, 1)
    if not lines:
        return Said()
    progress = PROGRESS.match(lines[0])
    if progress is None or not int(progress["done"]):
        return Said(lines[0])
    done, total, seconds = (int(progress[name]) for name in ("done", "total", "seconds"))
    return Said(lines[0], seconds * (total - done) / done)


def ran(log: Path, stage: str) -> bool:
    """Return whether DVC ran the stage's command."""
    return f"Running stage '{stage}':" in _head(log)


def was_cached(log: Path, stage: str) -> bool:
    """Return whether DVC took the stage's results from its cache."""
    return f"Stage '{stage}' is cached - skipping run" in _head(log)


def was_in_the_way(log: Path) -> bool:
    """Return whether a run failed only because of another DVC process."""
    ends = [line for line in last_lines(log, 12) if line.startswith("ERROR: ")]
    return any(message in line for line in ends for message in IN_THE_WAY)


def _head(log: Path) -> str:
    with log.open("rb") as stream:
        return stream.read(HEAD_BYTES).decode(errors="replace")
