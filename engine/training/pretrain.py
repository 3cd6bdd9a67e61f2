"""The pretraining loop, the same for every learner and defense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import EngineError
from engine.journal import Journal, Stateful
from engine.optimization import descend, set_lr, sgd, trained, warmup_cosine_lr
from engine.precision import Precision
from engine.processes import Share, check_divides, greatest, mean, own, share_of, world
from engine.protocols import Batch, Defense, Feed, Measure, Progress, Victim
from engine.randomness import stream
from engine.training.divergence import Diverged, weights_of


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


class TrainingDiverged(Diverged):
    """A loss is not a finite number.

    Shapes: rows int64 [B], the images of the batch.
    """

    def __init__(self, loss: float, epoch: int, step: int, rows: Tensor, network: nn.Module) -> None:
        super().__init__(
            f"the loss is {loss} in epoch {epoch}, step {step + 1}; lower the learning rate (victim: lr)",
            {"rows": rows, **weights_of(network)},
            {"loss": str(loss), "epoch": epoch, "step": step + 1},
        )
        self.epoch, self.step, self.rows = epoch, step, rows


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
        """Take one step on a batch and return its loss, still on the device: nothing here waits for a GPU.

        Where losses are read, one that is not finite moves nothing: the weights that made it stay.
        """
        images = self.defense.on_batch(images_u8.float() / 255, self.defense_draws)
        views = [
            self.defense.on_view(partial(view, self.draws, share=self.share), images, self.defense_draws)
            for view in self.victim.views
        ]
        if self.share is None:
            views, labels = [own(view) for view in views], own(labels)
        with self.precision.autocast():
            loss = self.victim.loss(views, labels)
        if not self.reads_losses or math.isfinite(mean(loss.detach()).item()):
            descend(loss, self.optimizer, self.scaler)
            self.victim.after_step()
        return loss.detach()

    @property
    def reads_losses(self) -> bool:
        """Say whether every loss is looked at: on a CPU that costs nothing, a GPU would wait at every step."""
        return self.precision.device.type == "cpu"

    def batches(self, feed: Feed, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield this process's part of the whole batches that an order of the images makes."""
        if self.share is None or not self.share.is_split:
            return feed.batches(order, batch_size)
        whole = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
        return feed.batches(whole[:, self.share.rows].flatten(), batch_size // world())

    def state_dict(self) -> dict[str, Any]:
        """Return what moves while the learner trains."""
        draws = self.draws.get_state(), self.defense_draws.get_state()
        return {"draws": draws, "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what moved."""
        for generator, saved in zip((self.draws, self.defense_draws), state["draws"], strict=True):
            generator.set_state(saved)
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)

    @property
    def _parts(self) -> tuple[Stateful, ...]:
        return self.victim.network, self.optimizer, self.scaler


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


class Course:
    """What a training shows, epoch by epoch, and where it is."""

    def __init__(self, measure: Measure = unmeasured, journal: Journal | None = None) -> None:
        self.measure, self.journal = measure, journal or Journal()
        self.curve: list[dict[str, float]] = []

    def begin(self, training: Training, epoch: int = 0, rows: Tensor | None = None) -> None:
        """Begin an epoch, whose every step sees some images.

        Shapes: rows int64 [steps, B].
        """
        self.training, self.epoch, self.rows = training, epoch, rows
        self.total, self.first_bad = (torch.full((), start, device=training.precision.device) for start in (0.0, -1.0))

    def add(self, loss: Tensor, step: int) -> None:
        """Count a step's loss."""
        self.total += loss
        is_first = ~self.total.isfinite() & (self.first_bad < 0)
        self.first_bad = torch.where(is_first, step, self.first_bad)

    def check(self) -> None:
        """Stop where the loss of a step was no finite number.

        Raises:
            TrainingDiverged: it was.
        """
        total = mean(self.total).item()
        if self.rows is None or math.isfinite(total):
            return
        own, steps = int(self.first_bad.item()), len(self.rows)
        step = steps - greatest(steps - own if own >= 0 else 0)  # the first of all processes
        raise TrainingDiverged(total, self.epoch + 1, step, self.rows[step], self.training.victim.network)

    def end(self, epoch: int, steps: int, lr: float) -> None:
        """Add an epoch's row to the curve."""
        loss = mean(self.total).item() / steps
        self.curve.append({"epoch": epoch, "loss": loss, "lr": lr, **self.measure(epoch)})

    def state_dict(self) -> dict[str, Any]:
        """Return what was shown; nothing is saved of a training that has diverged.

        Raises:
            TrainingDiverged: it has.
        """
        self.check()
        return {"curve": self.curve, "total": self.total, "first_bad": self.first_bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was shown."""
        self.curve[:] = state["curve"]
        self.total.copy_(state["total"])
        self.first_bad.copy_(state["first_bad"])


def pretrain(
    victim: Victim,
    feed: Feed,
    *,
    recipe: Recipe,
    defense: Defense,
    precision: Precision,
    seed: int,
    progress: Progress,
    course: Course | None = None,
) -> list[dict[str, float]]:
    """Train a learner in place and return the mean loss and the learning rate of every epoch, and what was measured.

    The feed must be on the network's device. A CPU's losses are read at every step, a GPU's once per epoch and where a
    checkpoint is written. Where processes share the run, each trains on its part of every batch. ``course`` says
    what is measured meanwhile, and lets training go on that was stopped.

    Raises:
        EngineError: fewer images than one batch, or processes that cannot share a batch.
        TrainingDiverged: a loss is not finite.
    """
    check_divides(recipe.batch_size, "the victim's batch_size")
    steps = len(feed) // recipe.batch_size
    if steps == 0:
        raise EngineError(
            f"{len(feed)} images are fewer than one batch of {recipe.batch_size}; lower the victim's batch_size"
        )
    course = course or Course()
    journal = course.journal
    orders = stream(seed, "victim", "order")
    training = start_training(victim, recipe=recipe, defense=defense, precision=precision, seed=seed)
    course.begin(training)
    for name, part in (("training", training), ("course", course), ("orders", orders)):
        journal.keep(name, part)
    for epoch in journal.loop("epoch", recipe.epochs):
        order = journal.once("order", lambda: torch.randperm(len(feed), generator=orders))
        course.begin(training, epoch, order[: steps * recipe.batch_size].view(steps, -1))
        loop = journal.loop("step", steps)
        batches = training.batches(feed, order[loop.start * recipe.batch_size :], recipe.batch_size)
        for step, (images_u8, labels) in zip(loop, batches, strict=False):  # the loop must be asked first, and ends it
            set_lr(training.optimizer, lr_at(epoch * steps + step, steps, recipe))
            course.add(training.step(images_u8, labels), step)
            if training.reads_losses:
                course.check()
        course.check()
        course.end(epoch + 1, steps, lr_at((epoch + 1) * steps - 1, steps, recipe))
        progress(epoch + 1, recipe.epochs, _note(course.curve))
    victim.network.eval()
    return course.curve


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
