"""A network that an attacker trains on clean images and then attacks, frozen; and what its noise aims at.

Shapes: B images of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.batching import Resident
from engine.protocols import AttackContext, Defense, ImageSet, Victim
from engine.training.bilevel import Objective
from engine.training.pretrain import Course, Recipe, pretrain
from engine.transfer import to_device


def train_reference(
    victim: Victim, images: ImageSet, context: AttackContext, *, recipe: Recipe, generator: torch.Generator, total: int
) -> int:
    """Train a network on clean images in place and return how many augmented images that took.

    The generator gives the training a seed of its own, so that no victim shares its views or its order. Epochs are
    reported as the first of ``total`` steps.
    """
    context.machine.place(victim.network)
    seed = int(torch.randint(2**31, (), generator=generator))
    pretrain(
        victim,
        Resident(images),
        recipe=recipe,
        defense=Defense(),
        precision=context.machine.precision,
        seed=seed,
        progress=lambda done, _, note: context.progress(done, total, f"reference network: {note}"),
        course=Course(journal=context.journal),
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
