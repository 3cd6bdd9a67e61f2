"""Learners that train on the worst of what their views may become: adversarial views, or the worst of several draws.

Shapes: B images of a batch, C channels, H x W pixels, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.crossing import everyones
from engine.processes import mean, own
from engine.protocols import DefenseContext, Gradient, Victim
from engine.training.defending import Adversary, Defended


class AdversariallyTrained(Defended):
    """A learner of one view that trains on an adversary's changes of it, and on nothing else.

    The search finds the network as training left it: batch norm in training mode, whose running statistics each of
    its steps moves.

    Source: Madry et al. 2018.
    """

    def __init__(self, victim: Victim, context: DefenseContext, adversary: Adversary) -> None:
        super().__init__(victim, context)
        self.adversary = adversary

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the inner learner's loss of the adversarial view."""
        (view,) = views
        adversarial = self.adversary(view, lambda images: self.victim.loss([images], labels), self.context)
        return self.victim.loss([adversarial], labels, gradient=gradient)


class WorstOfSeveral(Defended):
    """A learner that draws an augmentation of its views several times, and trains on the draw of the largest loss.

    With a classifier every image has a loss of its own, and takes its own worst draw; without one the loss belongs to
    the batch, and so does the choice. The search sends no gradient; it moves batch norm's running statistics.

    Source: Qin et al. 2023 (UEraser), official code.
    """

    def __init__(
        self,
        victim: Victim,
        context: DefenseContext,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        repeats: int,
    ) -> None:
        super().__init__(victim, context)
        self.augment, self.repeats = augment, repeats

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the inner learner's loss of the worst views."""
        return self.victim.loss(self._worst(views, labels), labels, gradient=gradient)

    @torch.no_grad()
    def _worst(self, views: Sequence[Tensor], labels: Tensor) -> Sequence[Tensor]:
        worst = self._drawn(views)
        if self.repeats == 1:
            return worst
        highest = self._losses(worst, labels)
        for _ in range(self.repeats - 1):
            drawn = self._drawn(views)
            losses = self._losses(drawn, labels)
            is_worse = (losses > highest).view(-1, 1, 1, 1)
            worst = [torch.where(is_worse, new, old) for new, old in zip(drawn, worst, strict=True)]
            highest = torch.maximum(losses, highest)
        return worst

    def _drawn(self, views: Sequence[Tensor]) -> list[Tensor]:
        return [own(self.augment(everyones(view), self.context.generator)) for view in views]

    def _losses(self, views: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of every image [B], or that of the batch []."""
        if self.classifier is None:
            return mean(self.victim.loss(views, labels))
        (view,) = views
        return cross_entropy(self.classifier(self.encoder(view)), labels, reduction="none")
