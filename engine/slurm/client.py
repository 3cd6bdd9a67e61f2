"""Slurm's own commands, one function each: what they say is parsed here and nowhere else.

A command that fails says nothing of the job: ``SlurmUnreachable`` means unknown, never gone.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError

SECONDS_TO_ANSWER = 60
FORGOTTEN = "Invalid job id"
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""The states from which a job does not come back, unless Slurm is just about to requeue it."""


class SlurmUnreachable(EngineError):
    """One of Slurm's commands failed: what it was asked is unknown."""


@dataclass(frozen=True)
class Listed:
    """A job as squeue shows it."""

    job_id: int
    state: str
    reason: str
    name: str

    @property
    def ended(self) -> bool:
        """Return whether it is over."""
        return self.state in ENDED

    def __str__(self) -> str:
        return self.state if self.reason in ("", "None") else f"{self.state} ({self.reason})"


def sbatch(options: Sequence[str], script: Path) -> int:
    """Submit a script and return the job's number.

    Raises:
        SlurmUnreachable: sbatch refused; or it got no answer, and the job may have been accepted all the same.
    """
    printed = _run("sbatch", "--parsable", *options, str(script))
    number = printed.strip().partition(";")[0]  # a cluster's name follows where there are several
    if not number.isdigit():
        raise SlurmUnreachable(f"sbatch printed {printed!r} where a job's number was expected")
    return int(number)


def squeue_mine(name: str | None = None) -> list[Listed]:
    """Return one's own jobs that are queued or run, oldest first; only those of one name, if it is given.

    Raises:
        SlurmUnreachable: squeue failed.
    """
    chosen = () if name is None else (f"--name={name}",)
    return _parse(_run("squeue", "--me", *chosen, *LISTING))


def squeue_job(job_id: int) -> Listed | None:
    """Return a job in whatever state it is; None once Slurm has forgotten it.

    Raises:
        SlurmUnreachable: squeue failed for another reason.
    """
    try:
        found = _parse(_run("squeue", f"--jobs={job_id}", "--states=all", *LISTING))
    except SlurmUnreachable as error:
        if FORGOTTEN in str(error):
            return None
        raise
    return found[0] if found else None


def scancel(job_id: int) -> None:
    """Cancel a job.

    Raises:
        SlurmUnreachable: scancel failed.
    """
    _run("scancel", str(job_id))


LISTING = ("--noheader", "--format=%A|%T|%r|%j")
LINE = re.compile(r"^(\d+)\|([A-Z_]+)\|([^|]*)\|(.*)$", re.MULTILINE)


def _parse(printed: str) -> list[Listed]:
    found = (Listed(int(job), state, reason.strip(), name) for job, state, reason, name in LINE.findall(printed))
    return sorted(found, key=lambda listed: listed.job_id)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS_TO_ANSWER, env=_environment()
        )
    except FileNotFoundError:
        raise EngineError(
            f"{command[0]} is not on PATH: a layout of kind slurm needs Slurm's commands, as on a login node"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmUnreachable(f"{command[0]} gave no answer within {SECONDS_TO_ANSWER} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or "nothing"
        raise SlurmUnreachable(f"{command[0]} failed with exit code {done.returncode} and said: {said}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Return the environment without what would narrow a listing, or pass one job's allocation on to another."""
    inside_a_job = "SLURM_JOB_ID" in os.environ
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SQUEUE_") and not (inside_a_job and name.startswith("SLURM_") and name not in kept)
    }
