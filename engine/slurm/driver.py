"""The process that a stage's command becomes: it submits the job or attaches to it, shows its log, and publishes.

The job does not need it. Whoever runs the same stage again, after this process has died, finds the job by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.errors import EngineError
from engine.launching import JobFailed, publish
from engine.protocols import Job
from engine.slurm import client
from engine.slurm.attempts import FOLDER, Attempt, Attempts, job_name
from engine.slurm.script import Allocation, batch_script, options
from engine.slurm.watch import LINES, Pace, Watch, shown

T = TypeVar("T")


def submit_or_attach(job: Job, allocation: Allocation, pace: Pace | None = None) -> None:
    """Return when the job's outs are in the project, whoever submitted it.

    Raises:
        JobFailed: it failed, or was cancelled, or ended without a word.
        Detached: this process was interrupted; the job runs on.
        SlurmUnreachable: whether the job exists cannot be known, or it was refused.
    """
    pace = pace or Pace()
    allocation = allocation if job.is_shared else allocation.of_one_process()
    project = Path.cwd().resolve()
    name = job_name(job, project)
    attempts = Attempts(project / FOLDER / name)
    with attempts.watched() as published_meanwhile:
        if published_meanwhile:
            return
        live = _patiently(lambda: client.squeue_mine(name), pace)
        attempt = attempts.latest()
        over = attempt is not None and attempt.exit_code() is not None  # which Slurm may not know yet
        if live and not over:
            attempt = _attach(job, live[0], attempt, pace)
        elif attempt is None or not attempt.has_made(job.outs):
            attempt = attempts.new()
            _submit(job, allocation, name, attempt, pace)
        _publish(job, attempt)
        attempts.note_published(attempt)


def _submit(job: Job, allocation: Allocation, name: str, attempt: Attempt, pace: Pace) -> None:
    project = Path.cwd().resolve()
    attempt.script.write_text(batch_script(allocation, job, attempt=attempt, project=project))
    try:
        job_id = client.sbatch(options(allocation, name=name, attempt=attempt, project=project), attempt.script)
    except client.SlurmUnreachable as error:
        raise client.SlurmUnreachable(
            f"{error}\nNothing is known to run. Correct the layout, or where Slurm gave no answer, run it again: "
            f"it attaches to the job if that was accepted after all. The script is {shown(attempt.script)}"
        ) from None
    print(f"job {job_id}: submitted, its log is {shown(attempt.log)}", flush=True)
    Watch(job, job_id, attempt, pace).until_it_ends()


def _attach(job: Job, live: client.Listed, attempt: Attempt | None, pace: Pace) -> Attempt:
    if attempt is None:
        raise EngineError(
            f"job {live.job_id} runs this stage, but its folder under {FOLDER} is gone; "
            f"`engine cancel {job.stage}@{job.key}` cancels it, and the next run submits another"
        )
    print(f"job {live.job_id}: attached, {live}, its log is {shown(attempt.log)}", flush=True)
    watch = Watch(job, live.job_id, attempt, pace)
    watch.log.skip_to_last(LINES)
    watch.until_it_ends()
    return attempt


def _publish(job: Job, attempt: Attempt) -> None:
    missing = [str(out) for out in job.outs if not (attempt.outs / out).exists()]
    if missing:
        raise JobFailed(
            f"{job.stage} {job.key} ended well but did not write {', '.join(missing)}; its log is {shown(attempt.log)}"
        )
    publish(job.outs, attempt.outs)


def _patiently(ask: Callable[[], T], pace: Pace) -> T:
    """Ask until there is an answer: what is unknown must not count as absent."""
    started, pause = time.monotonic(), pace.ask_first
    while True:
        try:
            return ask()
        except client.SlurmUnreachable as error:
            if time.monotonic() - started + pause > pace.patience:
                raise client.SlurmUnreachable(
                    f"{error}\nWhether the job runs is unknown, so none was submitted; run the stage again later"
                ) from None
            print(f"{error}; asking again", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, pace.ask_at_most)
