"""Calibration: how long a training step and an encoding take on this machine, from a few of them.

What was measured is kept under the device's name and a checksum of the settings, so that it is measured once.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.artifacts.files import read_json, write_json
from engine.machine import Machine
from engine.metering import device_name, peak_memory
from engine.stages.rehearsal import Learning, Pace, encoding, training

FILE = Path(".work/calibration.json")
VERSION = 2  # of what is measured, and how
STEPS, ENOUGH, PATIENCE = 3, 1.0, 20.0
"""Timed are so many steps or more, for so many seconds or more, but none is begun after the last of them."""


class Calibration:
    """Paces on one machine, read back where they are known."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.device = machine, device_name(machine)
        self.unit = "GPU" if machine.device.type == "cuda" else "CPU"
        self._known: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}

    def explain(self) -> str:
        """Say how paces were measured, and what they leave out."""
        held = "of the GPU" if self.unit == "GPU" else "of this process, so that what was measured before counts too"
        return (
            f"Times: the median of {STEPS} or more training steps on random images, {self.machine.precision.name}, "
            "per image-view; noise steps are taken to last as long. Not counted: reading and writing, measures, a "
            f"probe's own head. Memory: the peak {held}, and what an attack keeps there of images and noise, without "
            f"the images on which others train. Kept in {FILE}."
        )

    def pace(self, learning: Learning) -> Pace:
        """Return a pace, measured where it is not known yet."""
        machine = self.machine
        conditions = {
            "threads": machine.threads,
            "channels_last": machine.channels_last,
            "compile": machine.compile,
            "precision": machine.precision.name,
        }
        about = json.dumps([VERSION, learning.settings, conditions], sort_keys=True)
        key = f"{self.device} {hashlib.sha256(about.encode()).hexdigest()}"
        if key not in self._known:
            pace = _measure(learning, machine)
            self._known[key] = {"seconds": pace.seconds, "memory": pace.memory}
            write_json(FILE, self._known)
        return Pace(**self._known[key])


def _measure(learning: Learning, machine: Machine) -> Pace:
    import torch

    from engine.training.probe import CHUNK

    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    with machine.run():
        told = encoding(learning, machine, CHUNK) if learning.defense is None else training(learning, machine)
        seconds = _median(told.step, machine) / told.images
    return Pace(float(f"{seconds:.4g}"), peak_memory(machine))


def _median(step: Callable[[], object], machine: Machine) -> float:
    """Return the median time of a few steps, waiting for the device after each."""
    import torch

    def timed() -> float:
        start = time.perf_counter()
        step()
        if machine.device.type == "cuda":
            torch.cuda.synchronize(machine.device)
        return time.perf_counter() - start

    for _ in range(2):  # they compile, allocate and choose algorithms
        timed()
    times = [timed()]
    while sum(times) < PATIENCE and (len(times) < STEPS or sum(times) < ENOUGH):
        times.append(timed())
    return statistics.median(times)
