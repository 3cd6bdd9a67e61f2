"""What passes between the processes of a run with its gradient; see ``engine.processes``.

Shapes: B rows of a whole batch, b of this process's part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from engine.processes import add_up, own, world


def everyones(rows_b: Tensor) -> Tensor:
    """Return the rows [B, ...] of all processes, in the batch's order, given this one's [b, ...].

    The gradient of a row is the sum of what all processes' losses say of it. Official code instead returns this
    process's part alone, which is the true gradient over the number of processes.
    """
    return _Everyones.apply(rows_b) if world() > 1 else rows_b


class _Everyones(torch.autograd.Function):
    """Join the rows of all processes."""

    @staticmethod
    def forward(ctx: Any, rows_b: Tensor) -> Tensor:
        """Return the rows [B, ...] of all processes, in the order of their numbers."""
        joined = rows_b.new_empty((world() * len(rows_b), *rows_b.shape[1:]))
        distributed.all_gather(list(joined.chunk(world())), rows_b.contiguous())
        return joined

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the sum of all processes' gradients in this one's rows."""
        return own(add_up(grads[0]))
