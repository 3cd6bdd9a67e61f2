"""Slots: what one running cell gets of the machine, a GPU or some of the cores."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from engine.errors import EngineError


@dataclass(frozen=True)
class Slot:
    """A share of the machine.

    ``gpu`` is what CUDA_VISIBLE_DEVICES says; without one the cell sees what this process sees. Threads are counted,
    not pinned to cores: pinning gained nothing on two cores, and loses where others use the machine.
    """

    gpu: str | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a cell what is its own."""
        variables = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        return variables if self.gpu is None else variables | {"CUDA_VISIBLE_DEVICES": self.gpu}

    def __str__(self) -> str:
        cores = f"{self.threads} core{'s' if self.threads > 1 else ''}"
        return cores if self.gpu is None else f"GPU {self.gpu}, {cores}"


def share(jobs: int | None, device: str) -> list[Slot]:
    """Divide the devices of a layout among cells that run at once.

    Args:
        jobs: How many; by default one for each GPU, or one on a CPU.
        device: As in a layout: ``auto``, ``cpu``, ``cuda``, or ``cuda:N``.

    Raises:
        EngineError: there are more cells than GPUs, or the layout's GPU is not there.
    """
    gpus = [] if device == "cpu" else visible_gpus()
    if device.startswith("cuda") and not gpus:
        raise EngineError(f"the layout asks for device {device!r} but there is no GPU; use auto or cpu")
    if ":" in device:
        if (jobs or 1) > 1:
            raise EngineError(
                f"the layout's one device is {device}, which cannot serve --jobs {jobs}; use device auto, or --jobs 1"
            )
        gpus = []
    if gpus and (jobs or 0) > len(gpus):
        raise EngineError(
            f"--jobs {jobs}, but there {_count(len(gpus))}, and a cell gets one of its own; "
            f"use at most --jobs {len(gpus)}, or a layout with device cpu"
        )
    jobs = jobs or len(gpus) or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one number a level of nesting
    threads = min(max(cores // jobs, 1), int(asked) if asked.isdigit() else cores)
    return [Slot(gpus[number] if gpus else None, threads) for number in range(jobs)]


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
