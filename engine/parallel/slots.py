"""Slots: what one running cell gets of the machine, GPUs or some of the cores."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from engine.errors import EngineError
from engine.spec import ExecutorSpec


@dataclass(frozen=True)
class Slot:
    """A share of the machine.

    ``gpus`` are what CUDA_VISIBLE_DEVICES says; without any the cell sees what this process sees. ``threads`` are
    those of each of its processes: counted, not pinned to cores, for pinning gained nothing on two cores, and loses
    where others use the machine. A cell that works elsewhere has no share: None.
    """

    gpus: tuple[str, ...] = ()
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a cell what is its own."""
        if self.threads is None:
            return {}
        variables = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        return variables | {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else variables

    def __str__(self) -> str:
        if self.threads is None:
            return "the cluster"
        cores = f"{self.threads} core{'s' if self.threads > 1 else ''}"
        named = f"GPU{'s' if len(self.gpus) > 1 else ''} {'+'.join(self.gpus)}, " if self.gpus else ""
        return named + cores


def share(jobs: int | None, layout: ExecutorSpec) -> list[Slot]:
    """Divide this machine among cells that run at once; where a cluster runs them there is nothing to divide.

    Args:
        jobs: How many; by default as many as its GPUs serve, or one on a CPU or a cluster.
        layout: Which devices a cell uses, and in how many processes.

    Raises:
        EngineError: there are more cells than GPUs for them, or the layout's GPU is not there.
    """
    if layout.processes_here == 0:
        return [Slot()] * (jobs or 1)
    gpus = _gpus_of(layout, jobs)
    each = layout.processes_here
    fit = len(gpus) // each
    if gpus and (jobs or 1) > fit:
        raise EngineError(
            f"--jobs {jobs or 1}, but there {_count(len(gpus))}, and a cell of this layout gets {each} of its own; use "
            + (f"at most --jobs {fit}, or a layout with device cpu" if fit else "a layout of fewer devices_per_node")
        )
    jobs = jobs or fit or 1
    threads = _threads(jobs * each)
    return [Slot(tuple(gpus[number * each : (number + 1) * each]), threads) for number in range(jobs)]


def _gpus_of(layout: ExecutorSpec, jobs: int | None) -> list[str]:
    """Return the GPUs to divide: none where there are none, or where cells share the CPU or the one that is named."""
    device = layout.device
    gpus = [] if device == "cpu" else visible_gpus()
    if device.startswith("cuda") and not gpus:
        raise EngineError(f"the layout asks for device {device!r} but there is no GPU; use auto or cpu")
    if ":" not in device:
        return gpus
    if (jobs or 1) > 1:
        raise EngineError(
            f"the layout's one device is {device}, which cannot serve --jobs {jobs}; use device auto, or --jobs 1"
        )
    return []


def _threads(processes: int) -> int:
    """Return how many threads each of some processes gets, no more than the environment allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number a level of nesting
    return min(max(cores // processes, 1), int(asked) if asked.isdigit() else cores)


def visible_gpus() -> list[str]:
    """Return the GPUs that a process started here may use, as CUDA_VISIBLE_DEVICES would name them.

    Loading torch to count them would cost seconds, and a process that forks must not have started CUDA.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    if asked.returncode:  # a driver's tools without its GPU; torch sees none either
        return []
    return asked.stdout.split()


def _count(gpus: int) -> str:
    return "is 1 GPU" if gpus == 1 else f"are {gpus} GPUs"
