"""How a learner's embeddings lie while it trains: alignment and uniformity of images that stay the same.

Shapes: M images [M, 3, H, W] in eight bits, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.analysis import alignment, uniformity
from engine.precision import Precision
from engine.protocols import Victim
from engine.randomness import stream
from engine.views import Views

MOST_IMAGES = 256
MOST_EPOCHS = 20


def measured_epochs(epochs: int) -> frozenset[int]:
    """Return at most ``MOST_EPOCHS`` evenly spaced epochs, the first and the last among them; all of a short run."""
    return frozenset(1 + round(place * (epochs - 1) / (MOST_EPOCHS - 1)) for place in range(MOST_EPOCHS))


@dataclass(frozen=True)
class Measures:
    """Alignment and uniformity of two views of images under their prefixes, and no trace of having looked.

    The views are the learner's own, without a defense, and the same ones at every epoch and for every set of images:
    what moves a curve, and what parts two, is the network and the pixels alone.

    Source: Wang & Isola 2020, with alpha = 2 and t = 2.
    """

    victim: Victim
    images_u8: Mapping[str, Tensor]
    epochs: int
    precision: Precision
    seed: int

    def __call__(self, epoch: int) -> dict[str, float]:
        """Return the measures after an epoch; reading them waits for a GPU, at these epochs only."""
        if epoch not in measured_epochs(self.epochs):
            return {}
        found: dict[str, float] = {}
        with torch.no_grad(), evaluating(self.victim.network):
            for prefix, images_u8 in self.images_u8.items():
                za_MD, zb_MD = self._embeddings(images_u8)
                found[f"{prefix}alignment"] = alignment(za_MD, zb_MD).item()
                found[f"{prefix}uniformity"] = ((uniformity(za_MD) + uniformity(zb_MD)) / 2).item()
        return found

    def _embeddings(self, images_u8: Tensor) -> list[Tensor]:
        """Return the embeddings of two views."""
        draws, images = stream(self.seed, "measure", "views"), images_u8.float() / 255
        with self.precision.autocast():
            return [self.victim.embed(view(draws, images)).float() for view in two_of(self.victim.views)]


def two_of(views: tuple[Views, ...]) -> tuple[Views, ...]:
    """Return a learner's first two views; of a learner of one view, that one twice."""
    return (*views, views[0])[:2]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and back into the mode it was in."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
