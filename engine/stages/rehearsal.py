"""Rehearsal: a training step or an encoding of random images, to be timed or counted before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine import plugins
from engine.errors import EngineError
from engine.machine import Machine
from engine.protocols import Defense, DefenseContext, ImageSet, Source, Victim
from engine.randomness import stream
from engine.spec import DatasetSpec, DefenseSpec
from engine.specfiles import resolved
from engine.stages.pretrain import fresh_victim
from engine.victimspec import VictimSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 10  # where a data set's spec does not say how many: a head's size hardly counts
STAND_INS, SIDE = 512, 32
"""How many images, of which size, a defense is shown that works on a whole data set."""
UNTIMED = {"epochs", "warmup_epochs", "lr", "momentum", "weight_decay", "final_lr_rel"}
"""What a learner's step does not depend on."""


@dataclass(frozen=True)
class Learning:
    """Steps of a learner under a defense, or encodings of its encoder where there is no defense's name."""

    victim: VictimSpec
    dataset: DatasetSpec
    defense: DefenseSpec | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything that a step's cost depends on, but for the machine."""
        return {
            "victim": self.victim.model_dump(mode="json", exclude=UNTIMED),
            "defense": None if self.defense is None else resolved(self.defense),
            "image_size": self.dataset.image_size,
            "classes": source_of(self.dataset).num_classes if self.victim.classifies else None,
        }


@dataclass(frozen=True)
class Pace:
    """What a step takes of a device.

    Units: seconds of one image-view, or of one encoding; memory in bytes, of the device or else of the process.
    """

    seconds: float
    memory: int | None


@dataclass(frozen=True)
class Rehearsal:
    """What can be done again and again: a step, the network that takes it, and how many views or images it takes."""

    step: Callable[[], object]
    network: nn.Module
    images: int


def training(learning: Learning, machine: Machine) -> Rehearsal:
    """Return a step of a training on random images."""
    from engine.training.pretrain import Recipe, start_training

    spec, size = learning.victim, learning.dataset.image_size
    assert learning.defense is not None
    source, defense = source_of(learning.dataset), plugins.build("defenses", learning.defense)
    plain = fresh_victim(spec, source, 0)
    context = DefenseContext(stream(0, "rehearsal", "objective"), machine.precision, _pixels)
    batch = _random_images(spec.batch_size, size, source.num_classes)
    labels = _labels(defense, context, batch)
    victim: Victim = defense.on_objective(plain, context)
    machine.place(victim.network)
    recipe = Recipe(**spec.recipe())
    steps = start_training(victim, recipe=recipe, defense=defense, precision=machine.precision, seed=0)
    given = batch.images_u8.to(machine.device), labels.to(machine.device)
    return Rehearsal(lambda: steps.step(*given), victim.network, spec.batch_size * spec.views_per_image)


def encoding(learning: Learning, machine: Machine, images: int) -> Rehearsal:
    """Return the encoding of so many random images."""
    from engine.training.probe import encode

    source = source_of(learning.dataset)
    encoder = machine.place(fresh_victim(learning.victim, source, 0).encoder)
    images_u8 = _random_images(images, learning.dataset.image_size, source.num_classes).images_u8.to(machine.device)
    return Rehearsal(lambda: encode(encoder, images_u8, None, None), encoder, images)


def source_of(dataset: DatasetSpec) -> Source:
    """Return what a network must know of a data set that need not be here."""
    return Source(dataset.mean, dataset.std, dataset.num_classes or CLASSES)


def _random_images(count: int, size: int, classes: int) -> ImageSet:
    import torch

    draws = stream(0, "rehearsal", "images")
    images_u8 = torch.randint(0, 256, (count, 3, size, size), generator=draws, dtype=torch.uint8)
    return ImageSet(images_u8, torch.arange(count) % classes, tuple(map(str, range(classes))))


def _labels(defense: Defense, context: DefenseContext, batch: ImageSet) -> Tensor:
    """Return what an objective reads as the labels of a batch: where the defense adds some, those of stand-ins."""
    if not defense.changes_dataset:
        return batch.labels
    try:
        changed = defense.on_dataset(_random_images(STAND_INS, SIDE, len(batch.class_names)), context)
    except EngineError as error:
        raise EngineError(
            f"a defense cannot be rehearsed on {STAND_INS} random images; `plan --no-calibrate` does without: {error}"
        ) from error
    return changed.labels[[row % len(changed) for row in range(len(batch))]]


def _pixels(which: Literal["released", "clean"]) -> nn.Module:
    """Return an encoder whose features are pixels, reduced: what features a defense finds changes no step's cost."""
    from torch import nn

    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
