"""In several processes of torch elastic, on one computer or several that share a file system.

Name: torchrun
Needs: on several computers, the stage's command started on each of them, within the time that torch waits
Survives: the death of a process, on one computer: all start again from the last checkpoint
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.protocols import Job
from engine.spec import ExecutorSpec, Positive


class Spec(ExecutorSpec):
    """``nodes`` x ``devices_per_node`` processes, each on a device of its own."""

    kind: Literal["torchrun"]
    nodes: Positive = 1
    devices_per_node: Positive
    # How often all processes start again after one has died, on one computer; several would not agree on it.
    restarts: Annotated[int, Field(ge=0)] = 3
    # host:port of one of the computers, where there are several: all meet there.
    rendezvous: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$")] | None = None

    @model_validator(mode="after")
    def _nodes_meet(self) -> Spec:
        if (self.nodes > 1) != (self.rendezvous is not None):
            raise ValueError(f"rendezvous: is where several nodes meet, and nodes is {self.nodes}")
        if self.nodes > 1 and "restarts" in self.model_fields_set and self.restarts:
            raise ValueError(f"restarts: must be 0 on several nodes, given {self.restarts}")
        return self

    @property
    def processes(self) -> int:
        """Return how many processes share the work of a stage."""
        return self.nodes * self.devices_per_node

    @property
    def processes_here(self) -> int:
        """Return how many of them are this computer's."""
        return self.devices_per_node


@dataclass(frozen=True)
class Torchrun:
    """See the module."""

    spec: Spec

    def execute(self, job: Job) -> None:
        """Run the job's command in its processes; what cannot be shared runs in one."""
        from engine.elastic import run_elastic
        from engine.launching import torchrun_command

        spec = self.spec
        if not job.is_shared:
            run_elastic(torchrun_command(job.command, devices_per_node=1), job, threads=spec.threads)
            return
        meeting: tuple[str, ...] = ("--standalone",)
        if spec.nodes > 1:
            meeting = (
                f"--nnodes={spec.nodes}",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint={spec.rendezvous}",
                f"--rdzv-id={job.identity[:16]}",
            )
        command = torchrun_command(
            job.command,
            devices_per_node=spec.devices_per_node,
            restarts=spec.restarts if spec.nodes == 1 else 0,
            rendezvous=meeting,
        )
        run_elastic(command, job, threads=spec.threads, processes=spec.processes_here)


def build(spec: Spec) -> Torchrun:
    """Build the executor."""
    return Torchrun(spec)
