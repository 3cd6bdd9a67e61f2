"""Rows that processes share out among them: each holds its own block, and sends what others ask for.

Shapes: N rows in all, B of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from engine.perturbation import chunks
from engine.processes import add_up, is_first, rank, share_of, world


class EveryRow:
    """A tensor [K, ...] that each process holds whole, all of which every batch concerns."""

    def __init__(self, count: int, shape: Iterable[int], dtype: torch.dtype, device: torch.device) -> None:
        self.block = torch.zeros((count, *shape), dtype=dtype, device=device)

    def put_(self, rows: slice, values: Tensor) -> None:
        """Replace consecutive rows."""
        self.block[rows] = values

    def read(self, rows_B: Tensor) -> Tensor:
        """Return all rows [K, ...], whatever the batch."""
        return self.block

    def write_(self, rows_B: Tensor, values: Tensor) -> None:
        """Replace all rows [K, ...] by the same values in every process."""
        self.block = values

    def whole(self) -> Tensor:
        """Return all rows on the CPU."""
        return self.block.cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Return all rows, which any number of processes can take up again."""
        return {"rows": self.whole()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up all rows."""
        self.block.copy_(state["rows"])


class SharedRows:
    """A tensor [N, ...] of which each process holds one block of consecutive rows.

    A batch's rows may belong to anybody. Every process calls every method as often as the others, for the same batch.
    """

    def __init__(self, count: int, shape: Iterable[int], dtype: torch.dtype, device: torch.device) -> None:
        self.count = count
        self.start, self.stop = count * rank() // world(), count * (rank() + 1) // world()
        # What a batch asks of others lands in one more row, which means nothing: to leave those out instead, the host
        # would have to wait for a GPU to say how many they are.
        spare = int(world() > 1)
        self.block = torch.zeros((self.stop - self.start + spare, *shape), dtype=dtype, device=device)

    def put_(self, rows: slice, values: Tensor) -> None:
        """Keep what is this process's of some consecutive rows, given all of them."""
        first, last = max(rows.start, self.start), min(rows.stop, self.stop)
        if first < last:
            self.block[first - self.start : last - self.start] = values[first - rows.start : last - rows.start]

    def read(self, rows_B: Tensor) -> Tensor:
        """Return this process's share [b, ...] of the rows of a batch."""
        if world() == 1:
            return self.block[rows_B]
        return share_of(len(rows_B)).of(self._gathered(rows_B))

    def write_(self, rows_B: Tensor, values_b: Tensor) -> None:
        """Replace rows of a batch, given this process's share [b, ...] of them."""
        if world() == 1:
            self.block[rows_B] = values_b
            return
        share = share_of(len(rows_B))
        values_B = values_b
        if share.is_split:
            values_B = values_b.new_zeros((share.batch, *values_b.shape[1:]))
            values_B[share.rows] = values_b
            values_B = add_up(values_B)
        self.block[self._places(rows_B)[0]] = values_B

    def _gathered(self, rows_B: Tensor) -> Tensor:
        """Return the rows [B, ...] of a batch: one process holds a row, and all others add zero, which is exact."""
        places, is_own = self._places(rows_B)
        return add_up(torch.where(is_own.view(-1, *[1] * (self.block.dim() - 1)), self.block[places], 0))

    def _places(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return where in the block each row lies, the last place for those of others; and which are this process's."""
        is_own = (rows_B >= self.start) & (rows_B < self.stop)
        return torch.where(is_own, rows_B - self.start, self.stop - self.start), is_own

    def whole(self) -> Tensor:
        """Return all rows [N, ...] on the CPU of the first process; the others return none."""
        if world() == 1:
            return self.block.cpu()
        joined = torch.empty((self.count if is_first() else 0, *self.block.shape[1:]), dtype=self.block.dtype)
        for rows in chunks(self.count):
            part = self._gathered(torch.arange(rows.start, rows.stop, device=self.block.device))
            if is_first():
                joined[rows] = part.cpu()
        return joined

    def state_dict(self) -> dict[str, Tensor]:
        """Return all rows, which any number of processes can share out again."""
        return {"rows": self.whole()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take this process's block of all rows."""
        self.put_(slice(0, self.count), state["rows"])
