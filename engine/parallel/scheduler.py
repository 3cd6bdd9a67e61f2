"""Which cell runs when, and what becomes of the others when one fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import wait
from typing import Protocol

from engine.parallel import logs
from engine.parallel.lengths import Lengths
from engine.parallel.lockfiles import recorded_outs, remove_rwlock, rwlock_is_whole
from engine.parallel.pipeline import SECONDS_BETWEEN_TRIES, Plan
from engine.parallel.process import StageProcess
from engine.parallel.slots import Slot

TICK = 0.25


class State(StrEnum):
    """Where a stage is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CACHED = "from cache"
    UNCHANGED = "up to date"
    FAILED = "failed"
    SKIPPED = "skipped"
    STOPPED = "stopped"


GOOD = {State.DONE, State.CACHED, State.UNCHANGED}
OPEN = {State.WAITING, State.RUNNING}


@dataclass
class StageRun:
    """One stage in this run. ``seconds`` is how long it ran, ``reason`` why it was skipped or how it failed."""

    stage: str
    expected: float | None
    state: State = State.WAITING
    slot: Slot | None = None
    began: float = 0.0
    seconds: float = 0.0
    tries: int = 0
    not_before: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Board:
    """Everything that a display shows."""

    cells: dict[str, StageRun]
    slots: list[Slot]
    notes: list[str] = field(default_factory=list)

    def counts(self) -> Counter[State]:
        """Return how many stages there are in each state."""
        return Counter(cell.state for cell in self.cells.values())

    def in_state(self, *states: State) -> list[StageRun]:
        """Return the stages in some states, in a serial run's order."""
        return [cell for cell in self.cells.values() if cell.state in states]


class Display(Protocol):
    """What shows a run while it goes on."""

    def update(self, board: Board) -> None:
        """Show the present state; called several times a second."""


class Scheduler:
    """Runs a plan's stages, each as soon as what it needs is there and a slot is free."""

    def __init__(self, plan: Plan, slots: list[Slot], lengths: Lengths, display: Display) -> None:
        """Start nothing yet."""
        self._plan, self._lengths, self._display = plan, lengths, display
        self._users, self._chains = plan.users(), lengths.chains(plan)
        self._free = list(slots)
        self._running: dict[str, StageProcess] = {}
        self._changed: set[str] = set()
        self._recorded = dict(plan.recorded)
        self.board = Board({stage: StageRun(stage, lengths.expected(stage)) for stage in plan.order}, slots)
        self.interrupts = 0

    def interrupt(self, *_: object) -> None:
        """Start nothing more and ask what runs to end; the second time, kill it. A handler of signals."""
        self.interrupts += 1
        if self.interrupts == 1:
            self.board.notes.append("stopping: what runs may still write a checkpoint; Ctrl-C again kills it")

    def run(self) -> Board:
        """Run everything; return how it ended."""
        try:
            while True:
                self._collect()
                if self.interrupts:
                    self._stop()
                else:
                    self._settle()
                    self._start()
                self._display.update(self.board)
                if not self._running and (self.interrupts or not self.board.in_state(State.WAITING)):
                    return self.board
                self._wait()
        finally:
            for process in self._running.values():
                process.kill()

    def _wait(self) -> None:
        sentinels = [process.sentinel for process in self._running.values()]
        ending = [sentinel for sentinel in sentinels if sentinel is not None]
        if ending:
            wait(ending, timeout=TICK)
        else:
            time.sleep(TICK)

    def _stop(self) -> None:
        for process in self._running.values():
            if self.interrupts > 1:
                process.kill()
            else:
                process.stop()

    def _collect(self) -> None:
        """Take note of the processes that have ended."""
        for stage, process in list(self._running.items()):
            cell = self.board.cells[stage]
            cell.seconds = time.monotonic() - cell.began
            code = process.exit_code(patient=bool(self.interrupts))
            if code is None:
                continue
            del self._running[stage]
            assert cell.slot is not None
            self._free.append(cell.slot)
            cell.slot = None
            self._judge(cell, code)

    def _judge(self, cell: StageRun, code: int) -> None:
        log = logs.log_of(cell.stage)
        if code == 0:
            self._finish(cell)
        elif self.interrupts:
            cell.state, cell.reason = State.STOPPED, "interrupted"
        elif logs.was_in_the_way(log) and cell.tries <= len(SECONDS_BETWEEN_TRIES):
            cell.state = State.WAITING
            cell.not_before = time.monotonic() + SECONDS_BETWEEN_TRIES[cell.tries - 1]
        else:
            how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            cell.state, cell.reason = State.FAILED, f"{how} after {cell.seconds:.0f} s"

    def _finish(self, cell: StageRun) -> None:
        log = logs.log_of(cell.stage)
        if logs.ran(log, cell.stage):
            cell.state = State.DONE
            self._lengths.record(cell.stage, cell.seconds)
        else:
            cell.state = State.CACHED if logs.was_cached(log, cell.stage) else State.UNCHANGED
        if cell.state is not State.UNCHANGED and any(user not in self._plan.stale for user in self._users[cell.stage]):
            now = recorded_outs().get(cell.stage)  # the root's dvc.lock does not record stages of other folders
            if now is None or now != self._recorded.get(cell.stage):
                self._changed.add(cell.stage)

    def _settle(self) -> None:
        """Decide on the stages that need not run, or cannot."""
        for cell in self.board.in_state(State.WAITING):
            needs = [self.board.cells[need] for need in self._plan.needs[cell.stage]]
            lost = [need for need in needs if need.state in (State.FAILED, State.SKIPPED)]
            if lost:
                cell.state = State.SKIPPED
                cell.reason = next((need.reason for need in lost if need.state is State.SKIPPED), lost[0].stage)
            elif all(need.state in GOOD for need in needs) and not self._must_run(cell):
                cell.state = State.UNCHANGED

    def _must_run(self, cell: StageRun) -> bool:
        return cell.stage in self._plan.stale or any(need in self._changed for need in self._plan.needs[cell.stage])

    def _start(self) -> None:
        """Fill the free slots, first with what the longest chains of stages wait for."""
        for cell in sorted(self._ready(), key=lambda cell: -self._chains[cell.stage]):
            if not self._free or not self._may_start():
                return
            cell.slot = self._free.pop(0)
            cell.state, cell.began = State.RUNNING, time.monotonic()
            self._running[cell.stage] = StageProcess(cell.stage, cell.slot, keep_log=cell.tries == 0)
            cell.tries += 1

    def _may_start(self) -> bool:
        """Return whether DVC can enter a cell's files into its table, which a kill at the wrong moment breaks."""
        if rwlock_is_whole():
            return True
        if self._running:  # they cannot read it either, will say so when they end, and run again
            return False
        remove_rwlock()
        return True

    def _ready(self) -> Iterator[StageRun]:
        now = time.monotonic()
        for cell in self.board.in_state(State.WAITING):
            needs = self._plan.needs[cell.stage]
            if cell.not_before <= now and all(self.board.cells[need].state in GOOD for need in needs):
                yield cell
