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
    with Bar(*columns, console=console) as bar:  # type: ignore[arg-type]
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def _lines(title: str) -> Progress:
    start = time.monotonic()
    last = float("-inf")

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            print(f"{title}: {done}/{total} after {now - start:.0f} s  {note}", flush=True)

    return report
