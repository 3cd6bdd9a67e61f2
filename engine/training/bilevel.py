"""A surrogate and the noise that it meets, which learn in turn: the procedure beneath every attack that optimises.

Shapes: B images of a batch; ``rows_B`` are their indices in the training set. Where processes share a run, each works
on its share of every batch, and what a method returns is of that share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from engine import processes
from engine.noise import Noise
from engine.optimization import descend, set_lr, trained
from engine.perturbation import add_poison, descend_linf
from engine.processes import share_of
from engine.protocols import AttackContext, Victim
from engine.training.divergence import Diverged, weights_of
from engine.views import Views

Objective = Callable[[Victim, Sequence[Tensor], Tensor, Tensor], Tensor]
"""What noise steps minimise: of the surrogate, its views [B, C, H, W], labels [B] and noise [B, C, H, W]."""


def own_loss(victim: Victim, views: Sequence[Tensor], labels_B: Tensor, delta_BCHW: Tensor) -> Tensor:
    """Return the surrogate's own loss: noise that minimises it is error-minimising."""
    return victim.loss(views, labels_B)


class SearchDiverged(Diverged):
    """A loss of the surrogate or of the noise is no finite number any more."""


class Bilevel:
    """One surrogate at a time, the noise, and the views that both learn from.

    ``image_views`` counts the augmented images that went forwards and backwards: the attack's cost.
    """

    victim: Victim
    optimizer: torch.optim.Optimizer

    def __init__(self, noise: Noise, context: AttackContext, *, draws: torch.Generator) -> None:
        self.noise, self.machine, self.journal, self.draws = noise, context.machine, context.journal, draws
        self.precision = self.machine.precision
        self.scaler = self.precision.scaler()
        self.image_views = 0
        self._noise_views: Sequence[Views] | None = None
        self._loss, self._total = (torch.zeros((), device=self.machine.device) for _ in range(2))
        self.journal.keep("noise", noise.values)
        self.journal.keep("pair", self)

    def take(
        self,
        surrogate: Victim,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        noise_views: Sequence[Views] | None = None,
    ) -> None:
        """Put a fresh surrogate on the device, in place of the one before; noise may learn through other views."""
        self.victim, self._noise_views = surrogate, noise_views
        self.machine.place(surrogate.network)
        self._weights = trained(surrogate.network)
        self.optimizer = optimizer(self._weights)

    def take_frozen(self, surrogate: Victim, views: Sequence[Views] | None = None) -> None:
        """Put a surrogate that only noise learns from on the device, seen through its own views or others."""
        self.victim, self._noise_views = surrogate, views
        self.machine.place(surrogate.network)
        self._weights = trained(surrogate.network)
        self.start_perturbing()

    def start_training(self) -> None:
        """Let the surrogate learn."""
        self.victim.network.train()
        for weight in self._weights:
            weight.requires_grad_(True)

    def start_perturbing(self) -> None:
        """Freeze the surrogate, statistics included."""
        self.victim.network.eval()
        for weight in self._weights:
            weight.requires_grad_(False)

    def learn(
        self,
        batches: Iterator[Tensor],
        steps: int,
        *,
        lr: Callable[[int], float] | None = None,
        max_norm: float | None = None,
    ) -> float:
        """Let the surrogate take gradient steps, ``lr`` their rates, the noise frozen; return the last loss.

        Raises:
            SearchDiverged: the last loss is no finite number.
        """
        self.start_training()
        for step in self.journal.loop("step", steps):
            if lr is not None:
                set_lr(self.optimizer, lr(step))
            self._note(self.train(next(batches), max_norm=max_norm), "surrogate")
        return self.last_loss("surrogate")

    def _note(self, loss: Tensor, whose: str) -> None:
        """Keep the last loss; on a CPU, where that costs nothing, look at it."""
        self._loss.copy_(loss)
        if self.precision.device.type == "cpu":
            self.last_loss(whose)

    def last_loss(self, whose: str) -> float:
        """Return the last loss of all processes, which waits for a GPU; SearchDiverged where it is not finite."""
        return self._finite(self._loss, whose)

    def _finite(self, loss: Tensor, whose: str) -> float:
        value, place = processes.mean(loss).item(), self.journal.place
        if not math.isfinite(value):
            raise SearchDiverged(
                f"the loss of the {whose} is {value}, {place}; lower the surrogate's rate (attack: surrogate.lr)",
                {"noise": self.noise.values.whole(), **weights_of(self.victim.network)},
                {"loss": str(value), "of": whose, "place": place},
            )
        return value

    def train(self, rows_B: Tensor, *, max_norm: float | None = None) -> Tensor:
        """Take one gradient step on the weights, the noise frozen, and return the loss before it."""
        views, delta = self.victim.views, self.noise.spread(self.noise.touched(rows_B), rows_B)
        loss = self._value(rows_B, views, self.noise.clean(rows_B), delta, own_loss)
        descend(loss, self.optimizer, self.scaler, max_norm=max_norm)
        self.victim.after_step()
        return loss.detach()

    def perturb(
        self,
        rows_B: Tensor,
        *,
        steps: int,
        step_size: float,
        objective: Objective = own_loss,
        moving: bool = False,
        confined: bool = False,
    ) -> Tensor:
        """Take signed gradient steps on a batch's noise, the weights frozen, and return the loss before the last.

        Each step draws fresh views. ``moving`` lets momentum networks and queues move at every step. ``confined``
        clips, before every step, an image's noise to where its pixels stay in [0, 1].

        Units: step_size in [0, 1] pixel range.
        """
        views = self.victim.views if self._noise_views is None else self._noise_views
        clean = self.noise.clean(rows_B)
        touched = self.noise.touched(rows_B)
        for _ in range(steps):
            touched = (self.noise.confined(touched, clean, rows_B) if confined else touched).requires_grad_()
            loss = self._value(rows_B, views, clean, self.noise.spread(touched, rows_B), objective)
            (grad,) = torch.autograd.grad(loss * self.precision.loss_scale, touched)
            grad = self.noise.gradient(grad, rows_B)
            touched = descend_linf(touched.detach(), grad, step_size=step_size, epsilon=self.noise.epsilon)
            if moving:
                self.victim.after_step()
        self.noise.write_(rows_B, touched)
        return loss.detach()

    def perturb_batches(self, batches: Iterator[Tensor], count: int, **how: Any) -> float:
        """Let the noise of some batches take its steps, the surrogate frozen, and return the last loss.

        Raises:
            SearchDiverged: the last loss is no finite number.
        """
        self.start_perturbing()
        for _ in self.journal.loop("batch", count):
            self._note(self.perturb(next(batches), **how), "noise")
        return self.last_loss("noise")

    def sweep(
        self,
        batches: Sequence[Tensor],
        *,
        steps: int,
        step_size: float,
        objective: Objective = own_loss,
        report: Callable[[int], None] | None = None,
    ) -> float:
        """Perturb, confined, batch after batch, tell ``report`` how many are done, and return an image's mean loss.

        Raises:
            SearchDiverged: a loss is no finite number.
        """
        self._total.zero_()
        for place in self.journal.loop("batch", len(batches)):
            loss = self.perturb(batches[place], steps=steps, step_size=step_size, objective=objective, confined=True)
            self._note(loss, "noise")
            self._total += len(batches[place]) * loss
            if report is not None:
                report(place + 1)
        return self._finite(self._total / sum(map(len, batches)), "noise")

    @torch.no_grad()
    def error(self, batches: Iterable[Tensor]) -> float:
        """Return the share of perturbed images that the frozen surrogate, a classifier, gets wrong in fresh views."""
        assert self.victim.classifier is not None
        wrong = count = torch.zeros((), device=self.precision.device)
        for rows_B in batches:
            view = self.victim.views[0](self.draws, self.noise.poisoned(rows_B), share_of(len(rows_B)))
            with self.precision.autocast():
                logits_BK = self.victim.classifier(self.victim.encoder(view))
            counted, share = self.noise.counted(rows_B), share_of(len(rows_B))
            wrong = wrong + share.total(((logits_BK.argmax(dim=1) != self.noise.labels(rows_B)) & counted).sum())
            count = count + share.total(counted.sum())
        return (wrong / count.clamp_min(1)).item()

    def _value(
        self, rows_B: Tensor, chosen: Sequence[Views], clean: Tensor, delta: Tensor, objective: Objective
    ) -> Tensor:
        """Return an objective of fresh views of poisoned images: of this process's share of a batch."""
        poisoned, share = add_poison(clean, delta), share_of(len(rows_B))
        views = [view(self.draws, poisoned, share) for view in chosen]
        self.image_views += len(rows_B) * len(views)
        with self.precision.autocast():
            return objective(self.victim, views, self.noise.labels(rows_B), delta)

    def state_dict(self) -> dict[str, Any]:
        """Return what moves, beside the noise; raise SearchDiverged where a search has: nothing is saved of it."""
        for loss in (self._loss, self._total):
            self._finite(loss, "search")
        optimizer = getattr(self, "optimizer", None)
        return {
            "network": self.victim.network.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer is not None else {},
            "scaler": self.scaler.state_dict(),
            "draws": self.draws.get_state(),
            "image_views": self.image_views,
            "losses": [self._loss, self._total],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what moved."""
        self.victim.network.load_state_dict(state["network"])
        if state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.draws.set_state(state["draws"])
        self.image_views = state["image_views"]
        for own, saved in zip((self._loss, self._total), state["losses"], strict=True):
            own.copy_(saved)
