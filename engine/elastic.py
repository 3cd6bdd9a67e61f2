"""A torchrun of a stage's command, from its start to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from engine.journal import Stopped
from engine.launching import FAULT, JobFailed, inside
from engine.lineage import end_with_parent
from engine.protocols import Job

POLL = 0.2  # seconds
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Processes that start again meet anew. In torch's shared store they would find the addresses of those that died.

Source: https://github.com/pytorch/pytorch/issues/135712
"""
GRACE = 60.0
"""Seconds that processes have to write a checkpoint before they are killed."""


def run_elastic(command: list[str], job: Job, *, threads: int | None, processes: int = 1) -> None:
    """Run a torchrun command to its end.

    A fault that a user can mend ends it at once: it would come again at every restart. A signal to stop is passed on
    to the processes, which write a checkpoint first.

    Raises:
        Stopped: this process was asked to stop.
        JobFailed: a process failed more often than it may.
    """
    with tempfile.TemporaryDirectory() as scratch:
        fault = Path(scratch) / "fault"
        share = threads or max(1, (os.cpu_count() or 1) // processes)
        environment = {"OMP_NUM_THREADS": str(share), **OWN_STORE, **inside(os.environ), FAULT: str(fault)}
        # A session of its own: a terminal's Ctrl-C reaches this process alone, which passes it on once.
        with subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  this process has one thread
        ) as launched:
            try:
                with _stoppable():
                    while launched.poll() is None and not fault.exists():
                        time.sleep(POLL)
            except Stopped:
                _end(launched)
                raise
            if fault.exists():
                _end(launched)
                raise JobFailed(fault.read_text())
            if launched.returncode:
                raise JobFailed(
                    f"{job.stage} {job.key} failed in its processes (status {launched.returncode}; what they printed "
                    "is above); the same command goes on from the last checkpoint"
                )


def _end(launched: subprocess.Popen[bytes]) -> None:
    """Ask torchrun to end its processes, and see that it does."""
    launched.terminate()
    try:
        launched.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(launched.pid, signal.SIGKILL)
        launched.wait()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the block with ``Stopped``."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped("stopped as asked; the same command goes on from the last checkpoint", number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
