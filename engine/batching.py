"""The order in which images are visited, and the batches it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


class EndlessBatches:
    """Batches of image indices for ever, reshuffled at each pass, on a device.

    Raises:
        EngineError: fewer images than one batch, or processes that cannot share a batch.
    """

    def __init__(self, count: int, batch_size: int, generator: torch.Generator, device: torch.device) -> None:
        check_divides(batch_size, "the surrogate's batch_size")
        if count < batch_size:
            raise EngineError(
                f"{count} images are fewer than one batch of {batch_size}; lower the surrogate's batch_size"
            )
        self.count, self.batch_size, self.device = count, batch_size, device
        self.generator = generator
        self._start_pass()

    def _start_pass(self) -> None:
        self.before = self.generator.get_state()
        self.place, self.order = 0, to_device(torch.randperm(self.count, generator=self.generator), self.device)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if (self.place + 1) * self.batch_size > self.count:
            self._start_pass()
        start = self.place * self.batch_size
        self.place += 1
        return self.order[start : start + self.batch_size]

    def state_dict(self) -> dict[str, Any]:
        """Return where in which pass it is."""
        return {"generator": self.before, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where it was."""
        self.generator.set_state(state["generator"])
        self._start_pass()
        self.place = state["place"]


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
