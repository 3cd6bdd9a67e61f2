"""In this process, on its CPU or one of its GPUs.

Name: local
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.errors import EngineError
from engine.processes import end_with_parent
from engine.spec import ExecutorSpec, Positive

if TYPE_CHECKING:
    import torch
    from torch import nn

    from engine.precision import Precision

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # malloc.h


class Spec(ExecutorSpec):
    """One process on one device."""

    kind: Literal["local"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Positive | None = None
    channels_last: bool = True
    # Compile networks with torch.compile: pays on a GPU and in long runs; hardly anything on a CPU (docs/log.md).
    compile: bool = False
    # bf16 and fp16 change results and are recorded in them; fp16 needs a GPU.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # Training images stay on the device up to this size, decoded, in GB of 1e9 bytes; larger sets are decoded
    # batch by batch, which changes no result. 0: none stay; null: half of the device's free memory.
    resident_gb: Annotated[float, Field(ge=0)] | None = None
    # Processes that decode images that do not stay; 0 decodes in the training process itself.
    workers: Annotated[int, Field(ge=0)] = 2


@dataclass(frozen=True)
class Local:
    """See the module."""

    device: torch.device
    threads: int | None
    channels_last: bool
    precision: Precision
    compile: bool = False
    resident_gb: float | None = None
    workers: int = 2

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
        """Prepare the process for a stage: its threads, its memory, its end with its parent."""
        import torch

        _keep_freed_memory()
        end_with_parent()
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _free_bytes(device: torch.device) -> int:
    """Return how much may still be put on a device; what goes to a GPU is decoded in the host's memory first."""
    import psutil
    import torch

    free: int = psutil.virtual_memory().available
    return min(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free


def _keep_freed_memory() -> None:
    """Let the C allocator keep freed blocks: on a CPU a training step otherwise pays for fresh pages.

    32 MiB is the largest threshold that glibc accepts. Larger tensors get huge pages from torch.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def build(spec: Spec) -> Local:
    """Choose the device; ``auto`` takes the first GPU where there is one.

    Raises:
        EngineError: the layout names a GPU and torch sees none, or asks a CPU for float16.
    """
    import torch

    from engine.precision import Precision

    device = spec.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(f"the layout asks for device {spec.device!r} but torch sees no GPU; use auto or cpu")
    if device == "cpu" and spec.precision == "fp16":
        raise EngineError("the layout asks for precision 'fp16' on a CPU, which has no use for it; use bf16 or fp32")
    on = torch.device(device)
    return Local(
        on,
        spec.threads,
        spec.channels_last,
        Precision(spec.precision, on),
        compile=spec.compile,
        resident_gb=spec.resident_gb,
        workers=spec.workers,
    )
