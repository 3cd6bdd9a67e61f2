"""What one process runs on: a device, its numbers, its memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from engine.errors import EngineError
from engine.lineage import end_with_parent
from engine.processes import joined, world

if TYPE_CHECKING:
    import torch
    from torch import nn

    from engine.precision import Precision

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # malloc.h


@dataclass(frozen=True)
class Machine:
    """See the module; ``ExecutorSpec`` says what each field means."""

    device: torch.device
    precision: Precision
    threads: int | None = None
    channels_last: bool = True
    compile: bool = False
    resident_gb: float | None = None
    workers: int = 2
    checkpoint_minutes: float = 5.0

    @classmethod
    def of(cls, device: str, precision: str, **fields: bool | int | float | None) -> Self:
        """Choose the device; ``auto`` takes a GPU where there is one: the process's own, where several share a run.

        Raises:
            EngineError: a GPU is asked for and torch sees none, or float16 of a CPU.
        """
        import torch

        from engine.precision import DTYPES, Precision

        if precision not in DTYPES:
            raise EngineError(f"precision {precision!r} is not known; allowed: {', '.join(DTYPES)}")
        has_gpu = torch.cuda.is_available()
        chosen = ("cuda" if has_gpu else "cpu") if device == "auto" else device
        if chosen.startswith("cuda") and not has_gpu:
            raise EngineError(f"the layout asks for device {device!r} but torch sees no GPU; use auto or cpu")
        if chosen == "cpu" and precision == "fp16":
            raise EngineError("precision 'fp16' was asked of a CPU, which has no use for it; use bf16 or fp32")
        if chosen == "cuda" and world() > 1:
            chosen = f"cuda:{_own_gpu(torch.cuda.device_count())}"
        on = torch.device(chosen)
        return cls(on, Precision(precision, on), **fields)  # type: ignore[arg-type]

    def fits(self, num_bytes: int) -> bool:
        """Return whether images may stay on the device, given their size decoded."""
        if self.resident_gb is not None:
            return num_bytes <= self.resident_gb * 1e9
        return num_bytes <= _free_bytes(self.device) // 2

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in the layout's memory format, and return it.

        Compiling happens in place and part by part, because learners call the parts: names of weights stay.
        """
        import torch

        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        network = network.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.compile:
            for part in network.children():
                part.compile()
        return network

    @contextmanager
    def run(self) -> Iterator[None]:
        """Prepare the process for a stage: its threads, its memory, its end with its parent, the other processes."""
        import torch

        _keep_freed_memory()
        end_with_parent()
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        try:
            with joined():
                yield
        finally:
            torch.set_num_threads(before)


def _own_gpu(gpus: int) -> int:
    """Return the number of the GPU of this process, one of several on this computer."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= gpus:
        started = os.environ.get("LOCAL_WORLD_SIZE", "several")
        raise EngineError(
            f"the layout starts {started} processes on this computer, each on a GPU of its own, but torch sees {gpus}; "
            "lower its devices_per_node, or set its device to cpu"
        )
    return number


def _free_bytes(device: torch.device) -> int:
    """Return how much may still be put on a device; what goes to a GPU is decoded in the host's memory first."""
    import psutil
    import torch

    free: int = psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free


def _keep_freed_memory() -> None:
    """Let the C allocator keep freed blocks: on a CPU a training step otherwise pays for fresh pages.

    32 MiB is the largest threshold that glibc accepts. Larger tensors get huge pages from torch.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
