"""One cell's process: `dvc --wait-for-lock repro --single-item STAGE`, forked from a process that has loaded DVC.

A cell leads a process group, so that whatever its command starts can be found. On SIGTERM it does not end: it hands
the signal to its command, which may write a checkpoint, and DVC then ends in order. The kernel sends it that SIGTERM
when the scheduler dies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil

from engine.lineage import end_with_parent
from engine.parallel import logs
from engine.parallel.lockfiles import write_lock_whole
from engine.parallel.slots import Slot

SHELLS = {"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"}
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_END = 60.0
"""How long what a cell left running may take to end before it is killed."""


def load_dvc() -> None:
    """Load what every cell needs of DVC, once, before any is forked."""
    import dvc.cli.parser
    import dvc.commands.repro
    import dvc.commands.status
    import dvc.repo
    import dvc.repo.reproduce
    import dvc.stage.cache  # noqa: F401


class StageProcess:
    """A running cell."""

    def __init__(self, stage: str, slot: Slot, *, keep_log: bool) -> None:
        """Start it; its log is emptied, and the one before kept where ``keep_log``."""
        log = logs.open_new(logs.log_of(stage), keep=keep_log)
        self._process: ForkProcess = multiprocessing.get_context("fork").Process(
            target=_repro, args=(stage, slot, log, os.getpid())
        )
        self._process.start()
        os.close(log)
        self._left_at: float | None = None

    @property
    def sentinel(self) -> int | None:
        """What becomes ready when DVC's process ends; None: it has, and what it left is still ending."""
        return None if self._left_at else self._process.sentinel

    def stop(self) -> None:
        """Ask the command to end; asking again is harmless."""
        if self._process.is_alive():
            self._process.terminate()

    def kill(self) -> None:
        """End everything that the cell started, at once."""
        self._process.kill()  # by itself: a cell that has only just been forked leads no group yet
        with suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)

    def exit_code(self, *, patient: bool = False) -> int | None:
        """Return DVC's exit code once nothing of the cell runs any more: negative where a signal ended it.

        What outlives DVC gets a SIGTERM and, unless one is patient, some time later a SIGKILL.
        """
        if self._process.is_alive():
            return None
        if not _is_empty(self._group):
            if self._left_at is None:
                self._left_at = time.monotonic()
                with suppress(ProcessLookupError):
                    os.killpg(self._group, signal.SIGTERM)
            elif not patient and time.monotonic() - self._left_at > SECONDS_TO_END:
                self.kill()
            return None
        return self._process.exitcode

    @property
    def _group(self) -> int:
        assert self._process.pid is not None
        return self._process.pid


def _is_empty(group: int) -> bool:
    """Return whether a process group has no process left; orphans in it are this process's children."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _repro(stage: str, slot: Slot, log: int, scheduler: int) -> None:
    """Be a cell."""
    signal.signal(signal.SIGTERM, StopCommand())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setsid()
    end_with_parent(signal.SIGTERM)
    if os.getppid() != scheduler:  # it died before the kernel was asked
        sys.exit("the scheduler has ended")
    os.dup2(log, 1)
    os.dup2(log, 2)
    beside = str(Path(sys.executable).parent)  # `python` in a command is the one that runs this
    os.environ.update(slot.environment(), PATH=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    write_lock_whole()
    from dvc.cli import main

    sys.argv = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    sys.exit(main(sys.argv[1:]))


class StopCommand:
    """A handler of SIGTERM that ends the commands of this process, those that start later too."""

    def __init__(self) -> None:
        self._told: set[psutil.Process] = set()

    def __call__(self, *_: object) -> None:
        """Tell each command once."""
        signal.signal(signal.SIGALRM, self)
        for command in _commands(psutil.Process()):
            if command not in self._told:
                self._told.add(command)
                with suppress(psutil.NoSuchProcess):
                    command.terminate()
        signal.setitimer(signal.ITIMER_REAL, SECONDS_BETWEEN_LOOKS)


def _commands(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the commands that a process has started: not the shells that wait for them, nor what they have started.

    A command needs its own helpers to write its checkpoint, and a shell that ends first would leave it without parent.
    """
    with suppress(psutil.NoSuchProcess):
        for child in process.children():
            inner = list(_commands(child)) if child.name() in SHELLS else []
            yield from inner or [child]
