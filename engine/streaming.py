"""A training set that stays encoded in a file: worker processes decode it batch by batch.

Shapes: N images of a data set, B of a batch.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.context import BaseContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_image

from engine.artifacts.encoding import Encoded
from engine.artifacts.files import writing
from engine.batching import batches
from engine.protocols import Batch
from engine.transfer import to_device

SCRATCH = Path(".work/streams")
"""Where scratch files take their room. They have no names, so the folder looks empty."""
PREFETCH = 2
"""Batches that each worker decodes ahead."""


@dataclass(frozen=True)
class Spilled(Dataset[Batch]):
    """Encoded images in one open file; every row list gives a decoded batch.

    Another process is handed the open file, not a path. ``offsets`` says where each image begins, and where
    the last one ends.
    Shapes: offsets int64 [N + 1], labels int64 [N].
    """

    descriptor: int
    offsets: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def encoded(self) -> Tensor:
        """Map the file into memory: uint8 [bytes]. The kernel reads pages when they are needed and may drop them."""
        return torch.frombuffer(mmap.mmap(self.descriptor, 0), dtype=torch.uint8)

    def __getitem__(self, rows: list[int]) -> Batch:
        bounds = zip(self.offsets[rows].tolist(), self.offsets[1:][rows].tolist(), strict=True)
        with warnings.catch_warnings():
            # Deprecated since torchvision 0.29 in favour of torchcodec: docs/adr/0005-resident-or-streamed.md.
            warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
            images = [decode_image(self.encoded[start:end]) for start, end in bounds]
        return torch.stack(images), self.labels[rows]

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor), self.offsets, self.labels)


def _received(handle: Any, offsets: Tensor, labels: Tensor) -> Spilled:
    return Spilled(handle.detach(), offsets, labels)


def spill(images: Iterable[Encoded], file: IO[bytes]) -> Spilled:
    """Copy encoded images into one flat file, part by part, and return how to find them there."""
    ends, labels = [0], [torch.empty(0, dtype=torch.int64)]
    for part in images:
        file.writelines(part.png)
        for image in part.png:
            ends.append(ends[-1] + len(image))
        labels.append(torch.tensor(part.labels))
    file.flush()
    return Spilled(file.fileno(), torch.tensor(ends), torch.cat(labels))


@dataclass
class _Plan:
    """The batches of the pass that is under way: what workers are told to decode next."""

    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    batch_size: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows in batches(self.order, self.batch_size))


def _fresh_processes() -> BaseContext:
    """Return how workers start: forked from a server, a process of its own that has run no thread.

    A fork of this process would inherit the locks of torch's threads as they are at that moment, some of them held
    by threads that it does not have, and a CUDA context that it may not use. A spawned worker is as safe, but each
    imports torch and torchvision anew, which takes it 5 seconds; the server does so once for all of them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.data", "torchvision.io"])
    return context


def _end_with_parent(worker: int) -> None:
    """End a worker when the process that it decodes for has died: torch watches only the server."""

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Streamed:
    """A training set whose batches are decoded by workers, ahead of their use, and pinned for a GPU.

    Beside the encoded file, no more is held than ``PREFETCH`` batches of every worker and the one in use.
    Workers live from the first pass to ``close``. One pass at a time: a new one ends the one before.
    """

    def __init__(self, images: Spilled, device: torch.device, workers: int) -> None:
        self._count = len(images)
        self._device = device
        self._plan = _Plan()
        self._pass: Iterator[Batch] | None = None
        self._loader: DataLoader[Batch] = DataLoader(
            images,
            batch_size=None,  # the plan says whole batches
            sampler=self._plan,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            multiprocessing_context=_fresh_processes() if workers else None,
            worker_init_fn=_end_with_parent,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # seeds workers, which draw nothing; the global generator is left alone
        )

    def __len__(self) -> int:
        return self._count

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield whole batches in an order of the images, the same to the bit for any number of workers."""
        self._plan.order, self._plan.batch_size = order, batch_size
        self._pass = iter(self._loader)
        for images_u8, labels in self._pass:
            yield to_device(images_u8, self._device), to_device(labels, self._device)

    def close(self) -> None:
        """End the workers; nothing more can be read."""
        # Not left to the collection of garbage: an error's traceback keeps the pass in which it was raised.
        shut_down = getattr(self._pass, "_shutdown_workers", None)  # a pass without workers has no such method
        if shut_down is not None:
            shut_down()
        del self._loader, self._pass


@contextmanager
def streamed(images: Iterable[Encoded], *, device: torch.device, workers: int) -> Iterator[Streamed]:
    """Copy encoded images into a scratch file and yield their feed.

    The file has no name: its room is free again when the block ends and nothing maps it any more, and when the
    process dies.

    Raises:
        NotWritten: there is no room for it.
    """
    with writing(SCRATCH):
        SCRATCH.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=SCRATCH)  # noqa: SIM115  closed by the next block
    with file:
        with writing(SCRATCH):
            spilled = spill(images, file)
        feed = Streamed(spilled, device, workers)
        try:
            yield feed
        finally:
            feed.close()
