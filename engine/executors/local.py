"""In this process, on its CPU or one of its GPUs.

Name: local
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.protocols import Job
from engine.spec import ExecutorSpec


class Spec(ExecutorSpec):
    """One process on one device."""

    kind: Literal["local"]


@dataclass(frozen=True)
class Local:
    """See the module."""

    spec: Spec

    def execute(self, job: Job) -> None:
        """Do the job's work here and now."""
        from engine.machine import Machine

        job.work(Machine.of(precision=job.precision, **self.spec.machine_fields()))


def build(spec: Spec) -> Local:
    """Build the executor."""
    return Local(spec)
