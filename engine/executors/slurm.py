"""As a job of a Slurm cluster, on one node or several.

Name: slurm
Needs: Slurm's commands where `dvc repro` runs, and a file system that the nodes share
Survives: the end of the submitting process (the next run attaches), preemption and the time limit (requeued, resumed)
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from engine.protocols import Job
from engine.slurm import Allocation, submit_or_attach
from engine.spec import ExecutorSpec, Positive

TIME = r"^(\d+(:[0-5]\d){0,2}|\d+-\d+(:[0-5]\d){0,2})$"
EARLY = 60
"""Slurm may send the signal before the time limit earlier than asked for, by up to a minute (man sbatch, --signal)."""
OURS = (
    "array chdir cpus-per-task dependency error export export-file gid help input job-name no-requeue nodes ntasks "
    "ntasks-per-node open-mode output parsable requeue signal test-only time uid version wait wrap"
)
"""Options of sbatch that the engine gives itself, or that would change what a submission is."""


def _not_ours(option: str) -> str:
    name = option.partition("=")[0].removeprefix("--")
    # Slurm accepts any beginning of an option's name that is unambiguous.
    if taken := next((own for own in OURS.split() if own.startswith(name)), None):
        raise ValueError(f"--{name} is (or may stand for) --{taken}, which the engine gives itself")
    return option


Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
"""One line without control characters."""
Option = Annotated[str, Field(pattern=r"^--[a-z][^\x00-\x1f\x7f]*$"), AfterValidator(_not_ours)]


class Spec(ExecutorSpec):
    """A job of ``nodes`` x ``devices_per_node`` processes. What is null is left to the cluster."""

    kind: Literal["slurm"]
    nodes: Positive = 1
    devices_per_node: Positive = 1
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    # minutes, hours:minutes:seconds, days-hours, ... as sbatch takes it; in quotes where YAML would read a number.
    time_limit: Annotated[str, Field(pattern=TIME)] | None = None
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = None
    gres: Text | None = None
    gpus_per_node: Positive | None = None
    cpus_per_device: Positive | None = None
    exclusive: bool = False
    # Requeue on preemption, before the time limit, and when a node fails; the stage goes on from its checkpoint.
    requeue: bool = True
    max_requeues: Annotated[int, Field(ge=0)] = 50
    # Seconds before the time limit at which the job asks to be requeued.
    signal_before: Annotated[int, Field(ge=1, le=65535)] = 120
    # More options for sbatch, each in one piece: --reservation=maintenance.
    extra: tuple[Option, ...] = ()
    # Lines of shell that the job runs before the stage, such as `module load cuda`: code, the only place for it.
    prelude: tuple[Text, ...] = ()

    @property
    def processes(self) -> int:
        """Return how many processes share the work of a stage."""
        return self.nodes * self.devices_per_node

    @property
    def processes_here(self) -> int:
        """Return none: the cluster places them."""
        return 0

    @model_validator(mode="after")
    def _the_signal_comes_after_the_start(self) -> Spec:
        if self.requeue and self.time_limit and _seconds(self.time_limit) <= self.signal_before + EARLY:
            raise ValueError(
                f"signal_before {self.signal_before} s (and Slurm may be {EARLY} s early) leaves nothing of time_limit "
                f"{self.time_limit!r}: the job would be requeued at once, again and again"
            )
        return self

    @model_validator(mode="after")
    def _every_process_has_a_device(self) -> Spec:
        if self.gpus_per_node is not None and self.gpus_per_node < self.devices_per_node:
            raise ValueError(
                f"gpus_per_node {self.gpus_per_node} is less than devices_per_node {self.devices_per_node}"
            )
        if self.gpus_per_node is not None and self.gres is not None:
            raise ValueError("gres and gpus_per_node both ask for devices; give one of them")
        return self


def _seconds(time_limit: str) -> int:
    """Return a time limit in seconds: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = time_limit.rpartition("-")
    numbers = [int(number) for number in re.findall(r"\d+", rest)]
    units = (3600, 60, 1) if dash or len(numbers) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(number * unit for number, unit in zip(numbers, units, strict=False))


@dataclass(frozen=True)
class Slurm:
    """See the module."""

    allocation: Allocation

    def execute(self, job: Job) -> None:
        """Return when the job's outs are in place."""
        submit_or_attach(job, self.allocation)


def build(spec: Spec) -> Slurm:
    """Take over what the spec asks Slurm for."""
    wishes = {field.name: getattr(spec, field.name) for field in dataclasses.fields(Allocation)}
    return Slurm(Allocation(**wishes))
