"""How a stage shows where it is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.processes import is_first
from engine.protocols import Progress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_of(title: str) -> Iterator[Progress]:
    """Yield a progress callback for one task of a stage."""
    from rich.console import Console

    console = Console()
    if not is_first():
        yield lambda done, total, note: None
    elif console.is_terminal:
        with _bar(console, title) as report:
            yield report
    else:
        yield _lines(title)


@contextmanager
def _bar(console: object, title: str) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    pace = _Pace()
    with Bar(*columns, console=console) as bar:  # type: ignore[arg-type]
        task = bar.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str) -> None:
            rate = pace.rate(done, time.monotonic())
            bar.update(task, completed=done, total=total, note=f"{rate:.3g}/s  {note}" if rate else note)

        yield report


class _Pace:
    """The rate since the first report: a run that goes on begins in the middle."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def rate(self, done: int, now: float) -> float:
        """Return steps a second, 0 where nothing is known yet."""
        self.first = self.first or (done, now)
        steps, seconds = done - self.first[0], now - self.first[1]
        return steps / seconds if steps > 0 and seconds > 0 else 0.0


def _lines(title: str) -> Progress:
    start, last, pace = time.monotonic(), float("-inf"), _Pace()

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        rate = pace.rate(done, now)
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = f", {(total - done) / rate:.0f} s left at {rate:.3g}/s" if rate and done < total else ""
            print(f"{title}: {done}/{total} after {now - start:.0f} s{left}  {note}", flush=True)

    return report
