"""What flows between the engine's parts, and what each group of plugins provides.

Shapes: N images of a data set, C channels, H x W pixels; ``u8`` tensors hold eight-bit pixels.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.journal import Journal
    from engine.machine import Machine
    from engine.precision import Precision
    from engine.views import Views

Progress = Callable[[int, int, str], None]
"""Report progress: steps done, steps in all, a short note."""

Measure = Callable[[int], dict[str, float]]
"""Look at a learner after an epoch, counted from 1, and return what was found; nothing where it was not due."""

MEASURES = ("alignment", "uniformity", "clean_alignment", "clean_uniformity")
"""What a training curve says, at some epochs, of the released images and of their clean originals."""

Gradient = Literal["single", "dual"]
"""Whether a loss sends its gradient through its target's branch too: ``single`` stops it there, as training does."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Shapes: images_u8 uint8 [N, 3, H, W], labels int64 [N], or [N, L] where a defense gives an image L of them; a name a
        class; of an image of a file, its path relative to the data set's folder.
    """

    images_u8: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> ImageSet:
        places = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        names = tuple(self.names[place] for place in places) if self.names else ()
        return ImageSet(self.images_u8[rows], self.labels[rows], self.class_names, names)

    def to(self, device: torch.device) -> ImageSet:
        """Return the images on a device, still in eight bits."""
        return ImageSet(self.images_u8.to(device), self.labels.to(device), self.class_names, self.names)


Batch = tuple["Tensor", "Tensor"]
"""Eight-bit images [B, 3, H, W] and their labels [B] (or [B, L]), on the device."""


class Feed(Protocol):
    """A training set that hands out batches, from the device's memory or from files."""

    def __len__(self) -> int:
        """Return the number of images."""

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield whole batches in an order of the images, int64 [N] on the CPU; the remainder is dropped."""


@dataclass(frozen=True)
class Split:
    """A data set's two halves."""

    train: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Source:
    """What a network must know of the images it will see: their statistics and classes."""

    mean: Sequence[float]
    std: Sequence[float]
    num_classes: int


@dataclass(frozen=True)
class Poison:
    """What an attack returns.

    Shapes: noise [N, 3, H, W] (granularity ``sample``) or [classes, 3, H, W] (``class``), in any type.
    Units: noise in multiples of ``unit``, which is in [0, 1] pixel range: never floats of a whole data set at once.
    """

    noise: Tensor
    granularity: str
    image_views: int = 0  # how many augmented images were sent forwards and backwards: the attack's cost
    unit: float = 1.0
    withheld: Tensor | None = None
    """Images that are not released at all, bool [N]; the noise of a sample-wise poison has rows for them too."""
    surrogate: dict[str, Tensor] | None = None  # the weights of the network that the noise was learnt on last

    def delta(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return some rows of the perturbation: float, in [0, 1] pixel range."""
        return self.noise[rows].float() * self.unit


class Victim(ABC):
    """A learner: a network, its views, and a loss of them.

    ``loss`` is pure: it changes no weight, buffer or queue except batch-norm statistics in training
    mode. Momentum networks and queues move in ``after_step`` alone, which the training loop calls after
    each optimizer step.
    """

    network: nn.Module
    """The whole state: the optimizer trains those of its parameters that require a gradient."""
    views: tuple[Views, ...]
    """The distribution of each view that ``loss`` takes."""

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part that is kept after pretraining: images [B, 3, H, W] to features [B, F]."""

    @property
    def classifier(self) -> nn.Module | None:
        """The head that learnt the classes with the encoder: features [B, F] to logits [B, K]; most learn none."""
        return None

    def embed(self, view: Tensor) -> Tensor:
        """Return what ``loss`` compares of a view [B, 3, H, W]: its features [B, D], where a learner projects none."""
        features: Tensor = self.encoder(view)
        return features

    @abstractmethod
    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the scalar loss of views [B, 3, H, W] of a batch, one of each of ``views``, with labels [B].

        Its value is the same under both kinds of ``gradient``.
        """

    def after_step(self) -> None:  # noqa: B027  most learners have nothing to move
        """Update what moves without a gradient."""


class Attack(Protocol):
    """A way to make a poison."""

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Return the perturbation of a training set."""


@dataclass(frozen=True)
class AttackContext:
    """What an attack is given beside the images.

    Shapes: perturbed bool [N] says which images may change.
    """

    source: Source
    init: str | Poison
    """Where the noise starts: ``zero``, ``uniform`` inside the ball, or another poison."""
    perturbed: Tensor
    machine: Machine
    progress: Progress
    journal: Journal
    """Where the search is, and what it must find again after it was stopped."""


@dataclass(frozen=True)
class DefenseContext:
    """What a defense is given beside what it changes."""

    generator: torch.Generator
    """A stream of the defense's own, for draws before training or, in ``on_objective``, during it."""
    precision: Precision
    pretrained: Callable[[Literal["released", "clean"]], nn.Module]
    """Train the victim, undefended, on the released images or on their clean originals; return its encoder."""


class Defense:
    """What a victim does against poison: to the data set once, to every batch, to every view, or to the objective.

    A defense overrides what it needs; this one does nothing.
    """

    changes_dataset: bool = False
    """Whether ``on_dataset`` does anything. What changes the data set needs all of it on the device."""
    changes_pixels: bool = False
    """Whether ``on_batch`` or ``on_view`` does anything: it is then given whole batches by every process of a run."""

    def on_dataset(self, images: ImageSet, context: DefenseContext) -> ImageSet:
        """Change the training set once, before training; without ``changes_dataset``, it is not called.

        Labels may become int64 [N, L], the own ones first: the objective then receives rows of L labels.
        """
        return images

    def on_batch(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Change the images of a step, in [0, 1], before any view of them is drawn."""
        return images_BCHW

    def on_view(self, draw: Callable[[Tensor], Tensor], images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of a step's images: ``draw`` makes it, and whatever comes before or after is done here."""
        return draw(images_BCHW)

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        """Return the learner that trains in the victim's place, around the same encoder."""
        return victim


@dataclass(frozen=True)
class Job:
    """One stage of one cell: what to run, and what it makes."""

    stage: str
    key: str
    """With the stage and the data set, unique in a project: ``cp_s-simclr-none-0``."""
    dataset: str
    command: tuple[str, ...]
    """The arguments of the interpreter that does the job: ``-m engine pretrain --dataset ...``."""
    outs: tuple[Path, ...]  # what the job writes, relative to the project
    precision: str
    about: dict[str, Any]
    """Everything that the result depends on: specs, seed, inputs, versions; plain values."""
    work: Callable[[Machine], object]
    """Do it, in this process."""
    is_shared: bool = False
    """Whether several processes may share the work; else one does all of it."""

    @property
    def identity(self) -> str:
        """Return a checksum, in hexadecimal, of everything that the result depends on."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()


class Executor(Protocol):
    """Where a stage runs."""

    def execute(self, job: Job) -> None:
        """Return when what the job makes is in its place; raise an ``EngineError`` where it was not made."""
