"""A network that an attacker trains on clean images and then attacks, frozen; and what its noise aims at.

Shapes: B images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from engine.batching import Resident
from engine.machine import Machine
from engine.protocols import Defense, ImageSet, Progress, Victim
from engine.training.bilevel import Objective
from engine.training.pretrain import Recipe, pretrain
from engine.transfer import to_device


def train_reference(
    victim: Victim,
    images: ImageSet,
    *,
    recipe: Recipe,
    machine: Machine,
    generator: torch.Generator,
    progress: Progress,
) -> int:
    """Train a network on clean images in place and return how many augmented images that took.

    The generator gives the training a seed of its own, so that no victim shares its views or its order.
    """
    machine.place(victim.network)
    seed = int(torch.randint(2**31, (), generator=generator))
    pretrain(
        victim,
        Resident(images),
        recipe=recipe,
        defense=Defense(),
        precision=machine.precision,
        seed=seed,
        progress=progress,
    )
    seen = len(images) // recipe.batch_size * recipe.batch_size
    return recipe.epochs * seen * len(victim.views)


def next_class(labels_B: Tensor, num_classes: int) -> Tensor:
    """Return the class that a class-targeted poison teaches in place of each label.

    Source: Fowl et al. 2021, official code (recipe class-targeted): y -> (y + 1) mod C.
    """
    return (labels_B + 1) % num_classes


def adversarial(goal: str, num_classes: int) -> Objective:
    """Return what adversarial noise minimises.

    ``class_targeted`` is the network's loss of the next class, ``untargeted`` minus its loss of the true one.
    """
    goals: dict[str, Objective] = {
        "class_targeted": lambda victim, views, labels_B, _: victim.loss(views, next_class(labels_B, num_classes)),
        "untargeted": lambda victim, views, labels_B, _: -victim.loss(views, labels_B),
    }
    return goals[goal]


def partition(order: Tensor, batch_size: int, device: torch.device) -> tuple[Tensor, ...]:
    """Cut an order of images into batches that hold all of them; the last may be smaller."""
    return to_device(order, device).split(batch_size)


def reported(batches: Sequence[Tensor], progress: Progress, done: int, total: int, note: str) -> Iterator[Tensor]:
    """Yield batches, and report each once it has been used, as a step beyond those done."""
    for number, rows_B in enumerate(batches, start=1):
        yield rows_B
        progress(done + number, total, note)
