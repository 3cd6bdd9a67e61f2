"""How thoroughly to measure, and the process in which it happens."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.timing import Clock

if TYPE_CHECKING:
    from engine.machine import Machine


@dataclass(frozen=True)
class Lab:
    """What every benchmark is given. Hashable, so that benchmarks share measurements through ``functools.cache``.

    The defaults are the quick run's.
    """

    threads: int = 1
    repeats: int = 5
    slow_repeats: int = 3
    """Of what takes seconds: the ResNet-18."""
    slow_budget: float = 60.0
    """Seconds after which no further repeat of what is slow begins: the quick run must stay one."""
    calls: int = 8
    """Steps of the tiny network in one repeat."""
    batch: int = 128
    small_images: int = 512
    """Of 32 x 32 pixels, in the benchmarks of views."""
    large_images: int = 64
    """Of 224 x 224 pixels."""
    poisoned_images: int = 50_000
    product_sizes: tuple[int, ...] = (512, 1024, 2048)
    """Of the square matrices whose products show the machine's peak."""
    is_full: bool = False
    """Measure also what only the tables show."""
    clock: Clock = time.perf_counter

    @contextmanager
    def open(self) -> Iterator[None]:
        """Prepare the process as the engine prepares it for a stage; rivals then run under the same settings.

        Where the system can, everything is kept on as many cores as there are threads: a rival's worker processes
        would otherwise get cores that the engine does not use.
        """
        with _cores(self.threads), machine(self).run():
            yield


@contextmanager
def _cores(count: int) -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def quick(threads: int) -> Lab:
    """Return the settings of the quick run: under three minutes on two cores."""
    return Lab(threads)


def full(threads: int) -> Lab:
    """Return the settings of the full run."""
    return Lab(threads, repeats=15, slow_repeats=3, slow_budget=math.inf, calls=12, is_full=True)


def machine(lab: Lab) -> Machine:
    """Return the machine of the layout ``local`` as committed, on the CPU and with the lab's threads."""
    from engine.machine import Machine
    from engine.specfiles import load

    spec = load("layouts", "local").model_copy(update={"device": "cpu", "threads": lab.threads})
    return Machine.of(precision="fp32", **spec.machine_fields())
