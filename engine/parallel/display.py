"""How a run shows where it is: a live table on a terminal, plain lines elsewhere; and what it ends with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine.parallel import logs
from engine.parallel.scheduler import OPEN, Board, Display, StageRun, State

FAILURES_SHOWN = 3
LOG_LINES_SHOWN = 8
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def display() -> Iterator[Display]:
    """Yield what fits the place that this process writes to."""
    console = Console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield _Table(live)
    else:
        yield _Lines()


class _Table:
    """The cells that run, counts of the others, the latest failures."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def update(self, board: Board) -> None:
        """See Display."""
        table = Table(box=None, pad_edge=False, expand=True)
        for title in ("stage", "on", "elapsed", "left"):
            table.add_column(title, no_wrap=True, overflow="ellipsis")
        table.add_column("says", no_wrap=True, overflow="ellipsis", ratio=1)
        for cell in board.in_state(State.RUNNING):
            said = logs.said(logs.log_of(cell.stage))
            row = (cell.stage, str(cell.slot), _clock(cell.seconds), _left(cell, said.remaining), said.line)
            table.add_row(*(Text(entry) for entry in row))
        failed = board.in_state(State.FAILED)[-FAILURES_SHOWN:]
        lines = [f"failed: {cell.stage} ({cell.reason}), {logs.log_of(cell.stage)}" for cell in failed]
        parts = [Text(line, style="red") for line in lines] + [Text(note, style="yellow") for note in board.notes[-1:]]
        self._live.update(Group(table, Text(f"{counted(board)}{_time_left(board)}"), *parts), refresh=True)


class _Lines:
    """A line when a cell starts or ends, and now and then what the running ones say."""

    def __init__(self) -> None:
        self._seen: dict[str, State] = {}
        self._notes = 0
        self._last = time.monotonic()

    def update(self, board: Board) -> None:
        """See Display."""
        for note in board.notes[self._notes :]:
            print(note, flush=True)
        self._notes = len(board.notes)
        for stage, cell in board.cells.items():
            if self._seen.get(stage, State.WAITING) is not cell.state:
                self._seen[stage] = cell.state
                print(_event(cell), flush=True)
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            for cell in board.in_state(State.RUNNING):
                said = logs.said(logs.log_of(cell.stage))
                left = _left(cell, said.remaining)
                print(f"{cell.stage}: {_clock(cell.seconds)}{left and f', {left} left'}, {said.line}", flush=True)
            print(f"{counted(board)}{_time_left(board)}", flush=True)


def _event(cell: StageRun) -> str:
    if cell.state is State.RUNNING:
        return f"{cell.stage}: started on {cell.slot}"
    if cell.state is State.WAITING:
        return f"{cell.stage}: another DVC process is in the way, trying again"
    took = f" after {_clock(cell.seconds)}" if cell.state in (State.DONE, State.CACHED) else ""
    return f"{cell.stage}: {cell.state}{took}{cell.reason and f' ({cell.reason})'}"


def counted(board: Board) -> str:
    """Say how many stages there are in each state."""
    counts = board.counts()
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state])


def summary(board: Board, seconds: float) -> str:
    """Say how a run ended; of each failure, the last lines of its log and where that lies."""
    lines = [f"{counted(board) or 'nothing to run'} in {_clock(seconds)}"]
    for cell in board.in_state(State.FAILED):
        log = logs.log_of(cell.stage)
        lines += ["", f"failed: {cell.stage} ({cell.reason}); its log, {log}, ends with"]
        lines += [f"    {line}" for line in logs.last_lines(log, LOG_LINES_SHOWN)]
    skipped: dict[str, list[str]] = {}
    for cell in board.in_state(State.SKIPPED):
        skipped.setdefault(cell.reason, []).append(cell.stage)
    lines += [f"\nskipped for want of {need}: {', '.join(stages)}" for need, stages in skipped.items()]
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


def _left(cell: StageRun, remaining: float | None) -> str:
    """Return what is left by what the cell says, else by how long it took before."""
    if remaining is None and cell.expected is not None:
        remaining = max(cell.expected - cell.seconds, 0)
    return "" if remaining is None else _clock(remaining)


def _time_left(board: Board) -> str:
    """Estimate what is left of the run; nothing where some stage's length is unknown."""
    open_ = board.in_state(*OPEN)
    if not open_ or any(cell.expected is None for cell in open_):
        return ""
    left = sum(max((cell.expected or 0) - cell.seconds, 0) for cell in open_)
    return f"; about {_clock(left / len(board.slots))} left"
