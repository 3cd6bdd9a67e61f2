"""SimCLR as lightly's examples train it: Pillow images, a data loader with workers, lightly's transform and loss."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.chains import as_pillow, pillow_view
from benchmarks.lab import Lab
from benchmarks.timing import Clock, Timed
from benchmarks.trainees import LR, embed, resident_u8, spec_of, victim_of
from engine.optimization import descend, sgd
from engine.protocols import Victim

WORKERS, PREFETCHED = 2, 4  # a data loader keeps two batches a worker ahead
SETTLE = 1.0  # seconds in which the workers fill that reserve


class Pictures(Dataset):
    """Pillow images in memory, as many batches of them as asked for, over and over the same ones."""

    def __init__(self, images_u8: Tensor, count: int, transform: Callable[[Any], Any]) -> None:
        self.pictures, self.count, self.transform = as_pillow(images_u8), count, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.pictures[index % len(self.pictures)])


def lightly_loop(network: str, lab: Lab, *, steps: int, lead_in: int, memory_format: torch.memory_format) -> Timed:
    """Return the loop, which times steps of its steady state, the loading of their batches included.

    Before them, so many steps bring the workers from a full reserve to what they keep up with; without any,
    ``SETTLE`` fills it: enough for a network slower than the workers. After them, the workers have as much
    left to do as they hold in reserve, so that none of the measured steps is spared their company.
    """
    from lightly.transforms.multi_view_transform import MultiViewTransform

    victim = victim_of(network, lab)
    victim.network.to(memory_format=memory_format).train()
    view = pillow_view(spec_of(network, lab).views.size)
    count = lab.batch * (1 + lead_in + steps + PREFETCHED)
    pictures = Pictures(resident_u8(lab), count, MultiViewTransform([view, view]))
    with _on_shared_cores():
        loader: DataLoader[Any] = DataLoader(
            pictures, lab.batch, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
        )
    train = _train(victim, spec_of(network, lab))

    def timed(clock: Clock) -> float:
        with _on_shared_cores():
            batches = iter(loader)
        ready = _advance(train, next(batches), batches, lead_in)
        if lead_in == 0:
            time.sleep(SETTLE)
        start = clock()
        _advance(train, ready, batches, steps)
        seconds = (clock() - start) / steps
        for _ in batches:  # until the workers rest: nobody else's time is theirs
            pass
        return seconds

    return timed


@contextmanager
def _on_shared_cores() -> Iterator[None]:
    """Let the loader have more workers than cores without a warning: both sides are kept on the same cores."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


def _advance(train: Callable[[list[Tensor]], None], ready: Any, batches: Iterator[Any], steps: int) -> Any:
    for _ in range(steps):
        train(ready)
        ready = next(batches)
    return ready


def _train(victim: Victim, spec: Any) -> Callable[[list[Tensor]], None]:
    from lightly.loss import NTXentLoss

    criterion = NTXentLoss(temperature=spec.temperature)
    weights = victim.network.parameters()
    optimizer = sgd(weights, lr=LR, momentum=spec.momentum, weight_decay=spec.weight_decay)

    def train(views: list[Tensor]) -> None:
        z_a, z_b = (embed(victim, view) for view in views)  # one pass a view, as in lightly's examples
        descend(criterion(z_a, z_b), optimizer)

    return train
