"""Nowhere: what a stage would do is written down and not done.

Name: dry run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.artifacts.files import write_json
from engine.errors import EngineError
from engine.protocols import Job
from engine.spec import ExecutorSpec

FOLDER = Path(".work/dry_run")


class Spec(ExecutorSpec):
    """Nothing of it runs; ``python -m engine plan`` measures on the device that it names."""

    kind: Literal["dry_run"]


class NotDone(EngineError):
    """A job was written down, and what it makes was not made."""


@dataclass(frozen=True)
class DryRun:
    """See the module."""

    def execute(self, job: Job) -> None:
        """Write down what the job is: one JSON file a job.

        Raises:
            NotDone: always, so that nobody takes what was there before for what the job makes.
        """
        file = FOLDER / f"{job.stage}-{job.dataset}-{job.key}.json"
        described = {
            "stage": job.stage,
            "key": job.key,
            "dataset": job.dataset,
            "command": job.command,
            "outs": [str(out) for out in job.outs],
            "precision": job.precision,
            "is_shared": job.is_shared,
            "identity": job.identity,
            "about": job.about,
        }
        write_json(file, described)
        raise NotDone(f"{job.stage} {job.key} was not done, as the layout dry_run says; {file} holds what it would do")


def build(spec: Spec) -> DryRun:
    """Build the executor."""
    return DryRun()
