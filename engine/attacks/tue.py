"""Transferable Unlearnable Examples: noise that a contrastive learner fits, and that tells the classes apart.

Name: TUE (transferable unlearnable examples)
Paper: Ren, Xu, Wan, Ma, Sun & Tang, "Transferable Unlearnable Examples", ICLR 2023.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, reads labels and the whole
    data set, knows nothing of the victim's weights; aims at supervised and contrastive learners at once.
Official code: renjie3/TUE, ssl_perturbation.py and toolbox.py.
Deviations: views are drawn for each image, where the official code gives all images of a batch one crop and one
    jitter; with ``ssl_weight: 0`` the surrogate is not trained, because the noise never asks it; noise steps visit
    whole batches in an order shuffled at every round, so that up to one batch waits for the next; noise is clipped to
    where images stay in the pixel range; images that stay clean count as noise of zero. Unverified: the official
    schedule of the surrogate's rate (ours: its cosine over the rounds), its batch size, and the published accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import AttackContext, Gradient, ImageSet, Poison, Victim
from engine.randomness import stream
from engine.spec import AttackSpec, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from engine.victimspec import VictimSpec

Weight = Annotated[float, Field(ge=0)]


class Spec(AttackSpec):
    """TUE; a surrogate's own ``epochs`` and ``warmup_epochs`` play no part."""

    kind: Literal["tue"]
    granularity: Literal["sample"] = "sample"
    surrogate: spec_of("victims")  # type: ignore[valid-type]
    # Official code: 40 rounds of 20 model steps and 20 PGD steps an image for SimCLR, 200 of 100 and 5 for MoCo.
    rounds: Positive
    model_steps: Positive
    pgd_steps: Positive
    # The weights of the contrastive loss and of the noise's separability. Official code: 0 and 0.1 for SimCLR and
    # SimSiam, 1 and 1 for MoCo.
    ssl_weight: Weight
    csd_weight: Weight
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.1
    # What the separability's gradient passes: the equation's scatters too ('full'), or, as in the official code, the
    # distances of the classes' centres alone.
    csd_gradient: Literal["full", "centres"] = "centres"
    # Whether the contrastive gradient passes the key branch too. Official code, for MoCo: yes.
    gradient: Gradient = "dual"

    @property
    def learner(self) -> VictimSpec:
        """Return the surrogate."""
        learner: VictimSpec = self.surrogate
        return learner

    def image_views(self, images: int) -> int:
        """Predict the cost: none where noise asks no surrogate."""
        if self.ssl_weight == 0:
            return 0
        batch = self.surrogate.batch_size
        seen = self.model_steps * batch + self.pgd_steps * (images // batch * batch)
        return self.rounds * seen * self.surrogate.views_per_image

    @model_validator(mode="after")
    def _has_an_objective(self) -> Spec:
        if self.ssl_weight == self.csd_weight == 0:
            raise ValueError("csd_weight: must be positive where ssl_weight is 0")
        return self


@dataclass(frozen=True)
class TUE:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Alternate between the surrogate and the noise."""
        search, rounds = _Search(self.spec, images, context), self.spec.rounds
        for round_ in context.journal.loop("round", rounds):
            context.journal.once("model", partial(search.train_surrogate, round_))
            objective = context.journal.once("noise", search.learn_noise)
            context.progress(round_ + 1, rounds, f"objective before the last noise steps {objective:.3f}")
        return search.noise.poison(search.pair.victim.network, image_views=search.pair.image_views)


class _Search:
    """The surrogate, the noise, and the streams that move them."""

    def __init__(self, spec: Spec, images: ImageSet, context: AttackContext) -> None:
        from engine.batching import EndlessBatches
        from engine.noise import Noise
        from engine.optimization import sgd
        from engine.training.bilevel import Bilevel

        surrogate, seed, device = spec.surrogate, spec.seed, context.machine.device
        self.spec, self.count, self.device = spec, len(images), device
        self.num_classes = context.source.num_classes
        self.noise = Noise(
            images, context, granularity="sample", epsilon=spec.epsilon, generator=stream(seed, "attack", "delta")
        )
        self.pair = Bilevel(self.noise, context, draws=stream(seed, "attack", "views"))
        weights = stream(seed, "attack", "surrogate")
        victim: Victim = build_plugin("victims", surrogate, source=context.source, generator=weights)
        if spec.ssl_weight > 0:
            self.pair.take(
                victim,
                partial(sgd, lr=surrogate.lr, momentum=surrogate.momentum, weight_decay=surrogate.weight_decay),
            )
        else:
            self.pair.take_frozen(victim, views=())
        orders = stream(seed, "attack", "model_order")
        self.model_batches = EndlessBatches(self.count, surrogate.batch_size, orders, device)
        self.noise_orders, self.journal = stream(seed, "attack", "noise_order"), context.journal
        self.journal.keep("model_batches", self.model_batches)
        self.journal.keep("noise_orders", self.noise_orders)

    def train_surrogate(self, round_: int) -> None:
        """Take gradient steps on the weights, the noise frozen, at the round's rate; none where noise asks nobody."""
        from engine.optimization import cosine_lr, set_lr

        if self.spec.ssl_weight == 0:
            return
        surrogate = self.spec.surrogate
        progress = (round_ + 1) / self.spec.rounds
        set_lr(self.pair.optimizer, cosine_lr(progress, lr=surrogate.lr, final_lr_rel=surrogate.final_lr_rel))
        self.pair.learn(self.model_batches, self.spec.model_steps)

    def learn_noise(self) -> float:
        """Take signed gradient steps on all noise, the surrogate frozen; return the mean objective before the last."""
        import torch

        from engine.batching import batches
        from engine.transfer import to_device

        order = self.journal.once("order", lambda: torch.randperm(self.count, generator=self.noise_orders))
        self.pair.start_perturbing()
        return self.pair.sweep(
            [*batches(to_device(order, self.device), self.spec.surrogate.batch_size)],
            steps=self.spec.pgd_steps,
            step_size=self.spec.step_size_rel * self.spec.epsilon,
            objective=self._objective,
        )

    def _objective(self, victim: Victim, views: Sequence[Tensor], labels: Tensor, delta: Tensor) -> Tensor:
        from engine.crossing import everyones
        from engine.losses import class_separability

        form, weight = self.spec.csd_gradient, self.spec.csd_weight
        noise_BD, all_labels_B = everyones(delta.flatten(1)), everyones(labels)
        objective = weight * class_separability(noise_BD, all_labels_B, num_classes=self.num_classes, gradient=form)
        if self.spec.ssl_weight == 0:
            return objective
        return objective + self.spec.ssl_weight * victim.loss(views, labels, gradient=self.spec.gradient)


def build(spec: Spec) -> TUE:
    """Build the attack."""
    return TUE(spec)
