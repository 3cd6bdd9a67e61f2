"""The order in which images are visited, and the batches it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import EngineError
from engine.processes import check_divides
from engine.protocols import Batch, ImageSet
from engine.transfer import to_device


def batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Cut an order of images into whole batches; the remainder is dropped, as the official code does."""
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def endless_batches(count: int, batch_size: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Yield batches of image indices for ever, reshuffled at each pass, on a device.

    Raises:
        EngineError: fewer images than one batch, or processes that cannot share a batch.
    """
    check_divides(batch_size, "the surrogate's batch_size")
    if count < batch_size:
        raise EngineError(f"{count} images are fewer than one batch of {batch_size}; lower the surrogate's batch_size")
    while True:
        yield from batches(to_device(torch.randperm(count, generator=generator), device), batch_size)


@dataclass(frozen=True)
class Resident:
    """A training set that lies on the device, in eight bits, and is gathered by index."""

    images: ImageSet

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield whole batches in an order of the images."""
        for rows in batches(to_device(order, self.images.labels.device), batch_size):
            yield self.images.images_u8[rows], self.images.labels[rows]
