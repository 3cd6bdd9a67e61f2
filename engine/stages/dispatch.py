"""Dispatch: run a stage's job where a layout says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from engine import plugins
from engine.launching import is_inside
from engine.protocols import Executor, Job
from engine.spec import ExecutorSpec
from engine.specfiles import load
from engine.stages.mishaps import do


def dispatch(job: Job, layout: str) -> Path:
    """Make what a job makes, and return the first of it.

    Raises:
        SpecFault: the layout is wrong.
        EngineError: the job failed.
    """
    spec: ExecutorSpec = load("layouts", layout)
    job = replace(job, work=partial(do, job))
    if is_inside():
        from engine.machine import Machine

        job.work(Machine.of(precision=job.precision, **spec.machine_fields()))
    else:
        executor: Executor = plugins.build("layouts", spec)
        executor.execute(replace(job, command=(*job.command, "--layout", layout)))
    return job.outs[0]
