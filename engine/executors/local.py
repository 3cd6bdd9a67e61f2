"""In this process, on its CPU or one of its GPUs.

Name: local
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.errors import EngineError
from engine.spec import ExecutorSpec, Positive

if TYPE_CHECKING:
    import torch
    from torch import nn

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # malloc.h
PR_SET_PDEATHSIG = 1  # prctl.h


class Spec(ExecutorSpec):
    """One process on one device."""

    kind: Literal["local"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Positive | None = None
    channels_last: bool = True


@dataclass(frozen=True)
class Local:
    """See the module."""

    device: torch.device
    threads: int | None
    channels_last: bool

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in the layout's memory format, and return it."""
        import torch

        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return network.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    @contextmanager
    def run(self) -> Iterator[None]:
        """Prepare the process for a stage: its threads, its memory, its end with its parent."""
        import torch

        _keep_freed_memory()
        _end_with_parent()
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """Let the C allocator keep freed blocks: on a CPU a training step otherwise pays for fresh pages.

    32 MiB is the largest threshold that glibc accepts. Larger tensors get huge pages from torch.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies: a killed DVC leaves no training behind."""
    if sys.platform == "linux" and os.getppid() != 1:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def build(spec: Spec) -> Local:
    """Choose the device; ``auto`` takes the first GPU where there is one.

    Raises:
        EngineError: the layout names a GPU and torch sees none.
    """
    import torch

    device = spec.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(f"the layout asks for device {spec.device!r} but torch sees no GPU; use auto or cpu")
    return Local(torch.device(device), spec.threads, spec.channels_last)
