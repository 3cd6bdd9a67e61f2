"""Augmented Unlearnable Examples: error-minimising noise, learnt under contrastive-strength augmentation.

Name: AUE (augmented unlearnable examples)
Paper: Wang, Zhu & Gao, "Efficient Availability Attacks against Supervised and Contrastive Learning Simultaneously",
    NeurIPS 2024.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, reads labels and the whole
    data set, knows nothing of the victim's weights; aims at supervised and contrastive learners at once.
Official code: EhanW/AUE-AAP, aue.py.
Deviations: the surrogate normalises with the data set's statistics; model steps visit whole batches, so that up to one
    batch of a pass is left out; class-wise noise follows the sign of the sum of its members' gradients, and images are
    clipped to the pixel range before they are augmented, which the official ones are not where noise is class-wise; the
    strength is constant, as by default there. Unverified: how the official class-wise noise joins its members'
    gradients; whether its rate starts a pass of the cosine later than the engine's; the published accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import AttackContext, ImageSet, Poison
from engine.randomness import stream
from engine.spec import AttackSpec, Positive
from engine.victimspec import ViewsSpec

if TYPE_CHECKING:
    from engine.victimspec import VictimSpec


class Spec(AttackSpec):
    """AUE; a surrogate's ``epochs`` are the rounds, and of its views only the size counts."""

    kind: Literal["aue"]
    granularity: Literal["sample", "class"] = "sample"
    # Official code: cross-entropy, SGD 0.1, weight decay 1e-4, cosine to 1e-6 over 60 epochs, batches of 128.
    surrogate: spec_of("victims", "classifies")  # type: ignore[valid-type]
    # Official code: 0.6 for CIFAR-10, 1.0 for CIFAR-100.
    strength: Annotated[float, Field(ge=0, le=2.5)] = 0.6
    # Official code: 5 steps of epsilon / 10 a batch, once a round for every batch.
    pgd_steps: Positive = 5
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.1

    @property
    def learner(self) -> VictimSpec:
        """Return the surrogate with views of the strength."""
        learner: VictimSpec = self.augmented_surrogate
        return learner

    def image_views(self, images: int) -> int:
        """Predict the cost: in every epoch a pass of the surrogate, and steps on all images."""
        views = self.learner.views_per_image
        return self.learner.image_views(images) + self.learner.epochs * self.pgd_steps * images * views

    @property
    def augmented_surrogate(self) -> VictimSpec:
        """Return the surrogate with views of the strength."""
        from engine.views.strength import chain_of_strength

        views = ViewsSpec(size=self.surrogate.views.size, **chain_of_strength(self.strength))
        augmented: VictimSpec = self.surrogate.model_copy(update={"views": views})
        return augmented


@dataclass(frozen=True)
class AUE:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Alternate between one pass of the surrogate and one of the noise."""
        search, rounds = _Search(self.spec, images, context), self.spec.surrogate.epochs
        for round_ in context.journal.loop("round", rounds):
            model_loss = context.journal.once("model", partial(search.train_surrogate, round_))
            noise_loss = context.journal.once("noise", search.learn_noise)
            note = f"loss after model steps {model_loss:.3f}, before the last noise steps {noise_loss:.3f}"
            context.progress(round_ + 1, rounds, note)
        return search.noise.poison(search.pair.victim.network, image_views=search.pair.image_views)


class _Search:
    """The surrogate, the noise, and the streams that move them."""

    def __init__(self, spec: Spec, images: ImageSet, context: AttackContext) -> None:
        from engine.batching import EndlessBatches
        from engine.noise import Noise
        from engine.optimization import sgd
        from engine.training.bilevel import Bilevel

        surrogate, seed = spec.augmented_surrogate, spec.seed
        self.spec, self.surrogate, self.count, self.device = spec, surrogate, len(images), context.machine.device
        self.noise = Noise(
            images,
            context,
            granularity=spec.granularity,
            epsilon=spec.epsilon,
            generator=stream(seed, "attack", "delta"),
        )
        self.pair = Bilevel(self.noise, context, draws=stream(seed, "attack", "views"))
        weights = stream(seed, "attack", "surrogate")
        self.pair.take(
            build_plugin("victims", surrogate, source=context.source, generator=weights),
            partial(sgd, lr=surrogate.lr, momentum=surrogate.momentum, weight_decay=surrogate.weight_decay),
        )
        self.model_batches = EndlessBatches(
            self.count, surrogate.batch_size, stream(seed, "attack", "model_order"), self.device
        )
        self.noise_orders, self.journal = stream(seed, "attack", "noise_order"), context.journal
        self.journal.keep("model_batches", self.model_batches)
        self.journal.keep("noise_orders", self.noise_orders)

    def train_surrogate(self, round_: int) -> float:
        """Take one pass of gradient steps on the weights, the noise frozen; return the last loss."""
        from engine.training.pretrain import Recipe, lr_at

        recipe = Recipe(**self.surrogate.recipe())
        steps = self.count // recipe.batch_size
        return self.pair.learn(self.model_batches, steps, lr=lambda step: lr_at(round_ * steps + step, steps, recipe))

    def learn_noise(self) -> float:
        """Take signed gradient steps on all noise, the surrogate frozen; return the mean loss before the last."""
        import torch

        from engine.training.reference import partition

        order = self.journal.once("order", lambda: torch.randperm(self.count, generator=self.noise_orders))
        self.pair.start_perturbing()
        return self.pair.sweep(
            partition(order, self.surrogate.batch_size, self.device),
            steps=self.spec.pgd_steps,
            step_size=self.spec.step_size_rel * self.spec.epsilon,
        )


def build(spec: Spec) -> AUE:
    """Build the attack."""
    return AUE(spec)
