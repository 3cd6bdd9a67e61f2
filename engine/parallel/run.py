"""``python -m engine repro``: from the pipeline's state to an exit code."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.artifacts.files import alone
from engine.lineage import adopt_orphans
from engine.parallel.display import display, summary
from engine.parallel.lengths import Lengths
from engine.parallel.lockfiles import remove_rwlock, rwlock_is_whole
from engine.parallel.pipeline import order_lock, read_plan
from engine.parallel.process import load_dvc
from engine.parallel.scheduler import Scheduler, State
from engine.parallel.slots import Slot

GUARD = Path(".work/repro.lock")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def repro(targets: tuple[str, ...], slots: list[Slot]) -> int:
    """Bring stages, and what they need, up to date, as many at once as there are slots.

    Returns:
        An exit code: 0; 1 where a stage failed; 128 and the signal's number where the run was interrupted.

    Raises:
        EngineError: another run is under way, or DVC cannot read the pipeline.
    """
    began = time.monotonic()
    with alone(GUARD, "another `engine repro` runs in this workspace"):
        load_dvc()
        if not rwlock_is_whole():
            remove_rwlock()
        plan = read_plan(targets)
        adopt_orphans()
        with display() as shown:
            scheduler = Scheduler(plan, slots, Lengths(), shown)
            with _interruptible(scheduler) as received:
                board = scheduler.run()
        print(summary(board, time.monotonic() - began), flush=True)
        order_lock(plan)
    if received:
        return 128 + received[0]
    return 1 if board.in_state(State.FAILED) else 0


def foresee(targets: tuple[str, ...]) -> str:
    """Return a line for each stage that a run would or might start, and why."""
    load_dvc()
    plan = read_plan(targets)
    lines = []
    reached: set[str] = set()
    for stage in plan.order:
        below = [need for need in plan.needs[stage] if need in reached]
        if stage in plan.stale:
            lines.append(f"{stage}  {plan.stale[stage]}")
        elif below:
            lines.append(f"{stage}  if {', '.join(below)} makes something new")
        if stage in plan.stale or below:
            reached.add(stage)
    lines.append(f"{len(lines)} of {len(plan.order)} stages")
    return "\n".join(lines)


@contextmanager
def _interruptible(scheduler: Scheduler) -> Iterator[list[int]]:
    """Hand signals to the scheduler; yield the list of those that came. What is ignored (`nohup`) stays ignored."""
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        scheduler.interrupt()

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
