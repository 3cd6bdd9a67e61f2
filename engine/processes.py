"""The processes that share one run: which rows of a batch each works on, and what they add up.

Every process draws the same random numbers for whole batches and works on its own rows of them, so that what a run
makes is a function of the batch and not of how many processes there are. The loss of a run is the mean of its
processes' losses; what passes between processes passes its gradient back as the gradient of their sum.

Shapes: B rows of a whole batch, b of this process's part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from engine.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it gives up: the first may be busy writing or measuring."""


def world() -> int:
    """Return how many processes share the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Say whether this process is the one that writes and reports."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that a launcher has started, until the block ends; alone, do nothing.

    Tensors on a CPU travel over gloo, those on GPUs over NCCL.
    """
    if world() == 1:
        yield
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Share:
    """This process's part of a batch.

    A batch that does not fall into equal parts is not split: every process works on all of it.
    """

    batch: int
    rows: slice

    @property
    def is_split(self) -> bool:
        """Say whether other processes work on other rows."""
        return self.rows.stop - self.rows.start != self.batch

    def of(self, tensor: Tensor) -> Tensor:
        """Return this process's rows [b, ...] of a whole batch [B, ...]."""
        return tensor[self.rows] if self.is_split else tensor

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all rows of the batch, given that over this process's; no gradient."""
        return add_up(tensor) if self.is_split else tensor


def share_of(batch: int) -> Share:
    """Return this process's part of a batch of a size."""
    size = batch // world() if batch % world() == 0 else batch
    start = rank() * size if size < batch else 0
    return Share(batch, slice(start, start + size))


def check_divides(batch_size: int, what: str) -> None:
    """Refuse a batch size that the processes cannot share out evenly.

    Raises:
        EngineError: it cannot be divided by the number of processes.
    """
    if batch_size % world():
        raise EngineError(
            f"{what} is {batch_size}, which {world()} processes cannot share out evenly; change it, or the layout's "
            "nodes and devices_per_node"
        )


def own_groups(groups: int) -> int:
    """Return how many of a batch's equal groups of consecutive rows this process works on.

    Raises:
        EngineError: a group would be split between processes.
    """
    if groups % world():
        raise EngineError(
            f"{groups} batch-norm groups cannot be shared out to {world()} processes; change the spec's bn_group_size, "
            "or the layout's nodes and devices_per_node"
        )
    return groups // world()


def add_up(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, the same to the bit in each; no gradient."""
    if world() == 1:
        return tensor
    import torch
    from torch import distributed

    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def mean(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes; no gradient."""
    return add_up(tensor) / world() if world() > 1 else tensor


def own(rows_B: Tensor) -> Tensor:
    """Return this process's rows [b, ...] of those of all."""
    return rows_B.chunk(world())[rank()] if world() > 1 else rows_B


def greatest(number: int) -> int:
    """Return the greatest of a number over the processes."""
    if world() == 1:
        return number
    import torch
    from torch import distributed

    found = torch.tensor(number)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def average_(gradients: list[Tensor]) -> None:
    """Put the mean over the processes in place of each gradient."""
    if world() == 1 or not gradients:
        return
    import torch

    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
