"""The pretraining loop, the same for every learner and defense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.errors import EngineError
from engine.optimization import descend, set_lr, sgd, trained, warmup_cosine_lr
from engine.precision import Precision
from engine.processes import Share, check_divides, mean, own, share_of, world
from engine.protocols import Batch, Defense, Feed, Measure, Progress, Victim
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


@dataclass(frozen=True)
class Training:
    """A learner in training: what one step needs."""

    victim: Victim
    defense: Defense
    optimizer: torch.optim.Optimizer
    precision: Precision
    scaler: torch.amp.GradScaler
    draws: torch.Generator
    defense_draws: torch.Generator
    share: Share | None = None
    """Which part of a batch this process is given; None where it is given all of it."""

    def step(self, images_u8: Tensor, labels: Tensor) -> Tensor:
        """Take one step on a batch and return its loss, still on the device: nothing here waits for a GPU."""
        images = self.defense.on_batch(images_u8.float() / 255, self.defense_draws)
        views = [
            self.defense.on_view(partial(view, self.draws, share=self.share), images, self.defense_draws)
            for view in self.victim.views
        ]
        if self.share is None:
            views, labels = [own(view) for view in views], own(labels)
        with self.precision.autocast():
            loss = self.victim.loss(views, labels)
        descend(loss, self.optimizer, self.scaler)
        self.victim.after_step()
        return loss.detach()

    def batches(self, feed: Feed, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield this process's part of the whole batches that an order of the images makes."""
        if self.share is None or not self.share.is_split:
            return feed.batches(order, batch_size)
        whole = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
        return feed.batches(whole[:, self.share.rows].flatten(), batch_size // world())


def start_training(victim: Victim, *, recipe: Recipe, defense: Defense, precision: Precision, seed: int) -> Training:
    """Give a learner its optimizer and its streams, and put it into training mode."""
    optimizer = sgd(trained(victim.network), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    victim.network.train()
    draws, defense_draws = stream(seed, "victim", "views"), stream(seed, "defense", "views")
    # A defense draws for every image of a batch: each process lets it change all of them, and trains on its share.
    share = None if defense.changes_pixels else share_of(recipe.batch_size)
    return Training(victim, defense, optimizer, precision, precision.scaler(), draws, defense_draws, share)


def unmeasured(epoch: int) -> dict[str, float]:
    """Measure nothing."""
    return {}


def pretrain(
    victim: Victim,
    feed: Feed,
    *,
    recipe: Recipe,
    defense: Defense,
    precision: Precision,
    seed: int,
    progress: Progress,
    measure: Measure = unmeasured,
) -> list[dict[str, float]]:
    """Train a learner in place and return the mean loss and the learning rate of every epoch, and what was measured.

    The feed must be on the network's device. The loss is read once per epoch, so that a GPU never waits
    inside one. Where processes share the run, each trains on its part of every batch.

    Raises:
        EngineError: fewer images than one batch, or processes that cannot share a batch.
        TrainingDiverged: the mean loss of an epoch is not finite.
    """
    check_divides(recipe.batch_size, "the victim's batch_size")
    steps = len(feed) // recipe.batch_size
    if steps == 0:
        raise EngineError(
            f"{len(feed)} images are fewer than one batch of {recipe.batch_size}; lower the victim's batch_size"
        )
    orders = stream(seed, "victim", "order")
    training = start_training(victim, recipe=recipe, defense=defense, precision=precision, seed=seed)
    curve = []
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(feed), generator=orders)
        total = torch.zeros((), device=precision.device)
        batches = training.batches(feed, order, recipe.batch_size)
        for step, (images_u8, labels) in enumerate(batches, start=epoch * steps):
            lr = lr_at(step, steps, recipe)
            set_lr(training.optimizer, lr)
            total += training.step(images_u8, labels)
        loss = _finite(mean(total).item() / steps, epoch + 1)
        curve.append({"epoch": epoch + 1, "loss": loss, "lr": lr, **measure(epoch + 1)})
        progress(epoch + 1, recipe.epochs, _note(curve))
    victim.network.eval()
    return curve


def lr_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return a recipe's rate at a step of its whole run."""
    return warmup_cosine_lr(
        step,
        steps_per_epoch=steps_per_epoch,
        epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        lr=recipe.lr,
        final_lr_rel=recipe.final_lr_rel,
    )


def _note(curve: Sequence[dict[str, float]]) -> str:
    """Say what the loss is, and what the alignment was when it was last measured."""
    aligned = [f"alignment {row['alignment']:.3f}" for row in curve if "alignment" in row]
    return ", ".join([f"loss {curve[-1]['loss']:.3f}", *aligned[-1:]])


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise TrainingDiverged(f"the loss is {loss} in epoch {epoch}; lower the learning rate (victim: lr)")
    return loss
