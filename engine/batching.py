"""The order in which images are visited."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.errors import EngineError


def batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Cut an order of images into whole batches; the remainder is dropped, as the official code does."""
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def endless_batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of image indices for ever, reshuffled at each pass.

    Raises:
        EngineError: fewer images than one batch.
    """
    if count < batch_size:
        raise EngineError(f"{count} images are fewer than one batch of {batch_size}; lower the surrogate's batch_size")
    while True:
        yield from batches(torch.randperm(count, generator=generator), batch_size)
