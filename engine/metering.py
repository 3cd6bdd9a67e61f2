"""What a stage costs: its time and its memory."""

from __future__ import annotations

import platform
import re
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.processes import world

if TYPE_CHECKING:
    from engine.machine import Machine

CPU_INFO = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")


@dataclass
class Meter:
    """The time since it was made, beside that of runs that were interrupted before; the memory of this process."""

    machine: Machine
    start: float = field(default_factory=time.monotonic)
    before: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the time of all runs."""
        return self.before + time.monotonic() - self.start

    def record(self) -> dict[str, Any]:
        """Return what a result says of its cost.

        Memory is the most that one process held at a time: of its GPU, or else of the host.
        """
        return {
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": peak_memory(self.machine),
            "device": device_name(self.machine),
            "processes": world(),
        }

    def state_dict(self) -> dict[str, float]:
        """Return what an interrupted run leaves to the one that continues it."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Count from where an interrupted run stopped."""
        self.start, self.before = time.monotonic(), state["seconds"]


def device_name(machine: Machine) -> str:
    """Name the model of a machine's device."""
    import torch

    if machine.device.type == "cuda":
        return torch.cuda.get_device_name(machine.device)
    return cpu_name()


def cpu_name() -> str:
    """Name the model of this computer's processor."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor() or platform.machine()


def peak_memory(machine: Machine) -> int:
    """Return the most bytes that this process has held at a time: of its GPU, or else of the host."""
    import torch

    if machine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(machine.device)
    return host_peak_memory()


def host_peak_memory() -> int:
    """Return the most bytes of the host that this process has held at a time.

    Linux is asked for the peak of this program: getrusage's is inherited from the process that started it.
    """
    own = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE) if STATUS.is_file() else None
    if own:
        return int(own[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes, but bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
