"""The pretraining loop, the same for every learner and defense."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batching import batches
from engine.errors import EngineError
from engine.optimization import descend, set_lr, sgd, warmup_cosine_lr
from engine.protocols import Defense, ImageSet, Progress, Victim
from engine.randomness import stream


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a learner trains; see ``VictimSpec``."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: int
    final_lr_rel: float


class TrainingDiverged(EngineError):
    """The loss is not a finite number any more."""


def draw_views(victim: Victim, images_u8: Tensor, defense: Defense, generator: torch.Generator) -> list[Tensor]:
    """Return a learner's augmented views of a batch of eight-bit images."""
    images = images_u8.float() / 255
    return [defense.on_view(views(generator, images), generator) for views in victim.views]


def pretrain(
    victim: Victim, images: ImageSet, *, recipe: Recipe, defense: Defense, seed: int, progress: Progress
) -> list[dict[str, float]]:
    """Train a learner in place and return the mean loss and the learning rate of every epoch.

    The images must be on the network's device. The loss is read once per epoch, so that a GPU never waits
    inside one.

    Raises:
        EngineError: fewer images than one batch.
        TrainingDiverged: the mean loss of an epoch is not finite.
    """
    steps = len(images) // recipe.batch_size
    if steps == 0:
        raise EngineError(
            f"{len(images)} images are fewer than one batch of {recipe.batch_size}; lower the victim's batch_size"
        )
    optimizer = sgd(
        victim.network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    orders, draws = stream(seed, "victim", "order"), stream(seed, "victim", "views")
    victim.network.train()
    curve = []
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images), generator=orders).to(images.labels.device)
        total = torch.zeros((), device=images.labels.device)
        for step, rows in enumerate(batches(order, recipe.batch_size), start=epoch * steps):
            lr = _lr_at(step, steps, recipe)
            set_lr(optimizer, lr)
            loss = victim.loss(draw_views(victim, images.images_u8[rows], defense, draws), images.labels[rows])
            descend(loss, optimizer)
            victim.after_step()
            total += loss.detach()
        curve.append({"epoch": epoch + 1, "loss": _finite(total.item() / steps, epoch + 1), "lr": lr})
        progress(epoch + 1, recipe.epochs, f"loss {curve[-1]['loss']:.3f}")
    victim.network.eval()
    return curve


def _lr_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    return warmup_cosine_lr(
        step,
        steps_per_epoch=steps_per_epoch,
        epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        lr=recipe.lr,
        final_lr_rel=recipe.final_lr_rel,
    )


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise TrainingDiverged(f"the loss is {loss} in epoch {epoch}; lower the learning rate (victim: lr)")
    return loss
