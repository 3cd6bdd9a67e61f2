"""Watching one job: its log, its exit code, and what Slurm says of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.launching import JobFailed
from engine.protocols import Job
from engine.slurm import client
from engine.slurm.attempts import Attempt
from engine.slurm.log import Log, last_lines

LINES = 20
"""How much of a log is shown again: on attaching, and in an error."""
FORGOTTEN = "forgotten by Slurm"


class Detached(EngineError):
    """The job runs on, and nobody watches it."""


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, and how long they are waited for.

    Units: seconds.
    """

    look: float = 1.0
    """Between two looks at the log and the exit code, which are files."""
    ask_first: float = 1.0
    ask_at_most: float = 20.0
    """Between two calls of squeue: soon after a change, then ever more seldom."""
    patience: float = 120.0
    """How long Slurm may be unreachable before anything is submitted."""
    appear: float = 90.0
    """How long a file of a finished job may take to show on a network file system."""
    second_interrupt: float = 2.0


def shown(file: Path) -> Path:
    """Return a path as the user would type it."""
    return file.relative_to(Path.cwd().resolve())


class Watch:
    """One job, from when it is known until it is over."""

    def __init__(self, job: Job, job_id: int, attempt: Attempt, pace: Pace) -> None:
        self.job, self.job_id, self.attempt, self.pace = job, job_id, attempt, pace
        self.log = Log(attempt.log)
        self.inquiry = _Inquiry(job_id, pace)

    def until_it_ends(self) -> None:
        """Show the log; return when the job has ended well.

        Raises:
            JobFailed: it has ended otherwise.
            Detached: SIGINT or SIGTERM came.
        """
        try:
            with _sigterm_raises(self._detached("it was terminated")):
                code = self._exit_code()
        except KeyboardInterrupt:
            raise self._interrupted() from None
        if code != 0:
            raise self._failed(f"failed with exit code {code}")

    def _exit_code(self) -> int:
        while (code := self.attempt.exit_code()) is None and not self.inquiry.says_ended():
            self.log.show()
            time.sleep(self.pace.look)
        if code is None:
            code = self._late_exit_code()
        self.log.show()
        return code

    def _late_exit_code(self) -> int:
        """Return the exit code of a job that Slurm knows to be over; a network file system may show it late."""
        state = self.inquiry.state
        waits = self.pace.appear if state in ("COMPLETED", FORGOTTEN) else 0.0
        deadline = time.monotonic() + waits
        while (code := self.attempt.exit_code()) is None:
            if time.monotonic() > deadline:
                self.log.show()
                raise self._failed(f"is {state} and has left no exit code")
            time.sleep(self.pace.look)
        return code

    def _failed(self, how: str) -> JobFailed:
        return JobFailed(
            f"job {self.job_id} ({self.job.stage} {self.job.key}) {how}; "
            f"the end of its log {shown(self.attempt.log)}:\n{last_lines(self.attempt.log, LINES)}"
        )

    def _detached(self, why: str) -> Detached:
        return Detached(
            f"{why}: detached from job {self.job_id}; `dvc repro` attaches again, "
            f"`engine cancel {self.job.stage}@{self.job.key}` cancels"
        )

    def _interrupted(self) -> EngineError:
        """Cancel on a second Ctrl-C, detach without one."""
        print(f"\nCtrl-C again within {self.pace.second_interrupt:g} s cancels job {self.job_id}", flush=True)
        try:
            time.sleep(self.pace.second_interrupt)
        except KeyboardInterrupt:
            client.scancel(self.job_id)
            return JobFailed(f"cancelled job {self.job_id} ({self.job.stage} {self.job.key})")
        return self._detached("interrupted")


class _Inquiry:
    """What squeue says of a job: asked ever more seldom while nothing changes, told when something does."""

    def __init__(self, job_id: int, pace: Pace) -> None:
        self.job_id, self.pace = job_id, pace
        self.state = ""
        self._said = ""
        self._ends = 0
        self._pause = pace.ask_first
        self._next = time.monotonic()

    def says_ended(self) -> bool:
        """Return whether Slurm has said twice that the job is over: one answer may come just before a requeue."""
        if time.monotonic() >= self._next:
            try:
                self._hear(client.squeue_job(self.job_id))
            except client.SlurmUnreachable as error:
                self._say(f"{error}; the job may well run on: asking again")
            self._next = time.monotonic() + self._pause
            self._pause = min(1.5 * self._pause, self.pace.ask_at_most)
        return self._ends >= 2

    def _hear(self, listed: client.Listed | None) -> None:
        ended = listed is None or listed.ended
        self._ends = self._ends + 1 if ended else 0
        self.state = FORGOTTEN if listed is None else listed.state
        self._say(FORGOTTEN if listed is None else str(listed))
        if ended:
            self._pause = self.pace.ask_first

    def _say(self, news: str) -> None:
        if news != self._said:
            print(f"job {self.job_id}: {news}", flush=True)
            self._said = news
            self._pause = self.pace.ask_first


@contextmanager
def _sigterm_raises(error: EngineError) -> Iterator[None]:
    """Raise an error where SIGTERM arrives, in the main thread; elsewhere Python handles no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise error

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
