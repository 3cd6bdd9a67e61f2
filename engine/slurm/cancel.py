"""Cancelling a project's jobs by what they are for."""

from __future__ import annotations

from pathlib import Path

from engine.errors import EngineError
from engine.slurm import client
from engine.slurm.attempts import prefix


def cancel(key: str | None = None) -> str:
    """Cancel this project's jobs: all, or those of one cell (``KEY`` or ``STAGE@KEY``); say which they were.

    Raises:
        EngineError: no job of that cell is queued or runs.
    """
    live = {listed: _cell(listed.name) for listed in client.squeue_mine() if listed.name.startswith(_prefix())}
    chosen = [listed for listed, cell in live.items() if key in (None, cell, cell.partition("@")[2])]
    if key is not None and not chosen:
        there = ", ".join(sorted(live.values())) or "none"
        raise EngineError(f"no job of {key!r} is queued or runs; there are: {there}")
    for listed in chosen:
        client.scancel(listed.job_id)
    told = [f"cancelled job {listed.job_id}: {live[listed]}, {listed}" for listed in chosen]
    return "\n".join(told) or "no job of this project is queued or runs"


def _prefix() -> str:
    return prefix(Path.cwd().resolve())


def _cell(name: str) -> str:
    """Return ``STAGE@KEY`` of a job's name, in which a data set is before the key and a part of the identity last."""
    stage, _, *key = name.removeprefix(_prefix()).split("-")[:-1]
    return f"{stage}@{'-'.join(key)}"
