"""Unlearnable Examples: noise and a supervised network together minimise the cross-entropy.

Name: Unlearnable Examples (UE, sample-wise or class-wise)
Paper: Huang, Ma, Erfani, Bailey & Wang, "Unlearnable Examples: Making Personal Data Unexploitable", ICLR 2021.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, reads labels and the whole
    data set, knows nothing of the victim's weights.
Official code: HanxunH/Unlearnable-Examples.
Deviations: the search ends after ``max_rounds`` at the latest; model steps visit whole batches in an order shuffled at
    every pass, where the official sample-wise search keeps the files' order, and see poisoned images clipped to the
    pixel range, where the official ones are not; the surrogate normalises with the data set's statistics; the released
    images are the clean ones plus the noise, clipped, where the official loader drops negative noise before it adds
    (``drop_negative``); the error is that of the images that may change. Unverified: the official stratified subset's
    draw and the order in which its batches follow each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import AttackContext, ImageSet, Poison
from engine.randomness import stream
from engine.spec import AttackSpec, Positive, Unit

if TYPE_CHECKING:
    from engine.noise import Noise
    from engine.victimspec import VictimSpec


class Spec(AttackSpec):
    """Unlearnable examples; a surrogate's own ``epochs``, ``warmup_epochs`` and ``final_lr_rel`` play no part."""

    may_end_early: ClassVar[bool] = True

    kind: Literal["unlearnable_examples"]
    granularity: Literal["sample", "class"]
    # Official code: cross-entropy without augmentation, SGD 0.1 at a constant rate, batches of 512.
    surrogate: spec_of("victims", "classifies")  # type: ignore[valid-type]
    # The bound on how often surrogate and noise take turns; the official code goes on until the target is reached.
    max_rounds: Positive
    # Before so many rounds the target does not end the search. Official code: 1, and there the noise is small: where it
    # is large, a surrogate of ten steps makes no error on noise made against it, and has learnt nothing yet.
    min_rounds: Positive = 1
    # Official code: 20 steps a batch for sample-wise noise, 1 for class-wise.
    pgd_steps: Positive
    # Paper: M = 10 steps of the surrogate a round; steps of epsilon / 10; the search ends at an error of 0.01.
    model_steps: Positive = 10
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.1
    target_error: Unit = 0.01
    # The share of each class on which noise is learnt. Official code: all for sample-wise noise, 0.2 for class-wise.
    noise_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Official code: 5.
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    # The official loader's habit, which its authors call a flaw (issue 13): negative noise is never added.
    drop_negative: bool = False

    @property
    def learner(self) -> VictimSpec:
        """Return the surrogate."""
        learner: VictimSpec = self.surrogate
        return learner

    def image_views(self, images: int) -> int:
        """Predict the cost of the last round that is allowed; classes are taken to be of one size."""
        chosen = math.ceil(self.noise_fraction * images)
        seen = self.model_steps * self.surrogate.batch_size + self.pgd_steps * chosen
        return self.max_rounds * seen * self.surrogate.views_per_image

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        if self.min_rounds > self.max_rounds:
            raise ValueError(f"min_rounds: must not exceed max_rounds ({self.max_rounds}), given {self.min_rounds}")
        if self.granularity == "sample" and self.noise_fraction < 1:
            raise ValueError(f"noise_fraction: must be 1 where every image has its noise, given {self.noise_fraction}")
        return self


@dataclass(frozen=True)
class UnlearnableExamples:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Alternate between the surrogate and the noise until the surrogate makes almost no error."""
        search, spec = _Search(self.spec, images, context), self.spec
        for done in context.journal.loop("round", spec.max_rounds):
            round_ = done + 1
            loss = context.journal.once("model", search.train_surrogate)
            context.journal.once("noise", search.learn_noise)
            error = context.journal.once("error", search.error)
            is_reached = error <= spec.target_error and round_ >= spec.min_rounds
            note = f"loss after model steps {loss:.3f}, error {error:.3f}, target {spec.target_error}"
            if is_reached:
                note += f": reached after {round_} rounds"
            elif round_ == spec.max_rounds:
                note += ": not reached"
            context.progress(spec.max_rounds if is_reached else round_, spec.max_rounds, note)
            if is_reached:
                break
        if spec.drop_negative:
            search.noise.values.block.clamp_(min=0)
        return search.noise.poison(search.pair.victim.network, image_views=search.pair.image_views)


class _Search:
    """The surrogate, the noise, and the streams that move them."""

    def __init__(self, spec: Spec, images: ImageSet, context: AttackContext) -> None:
        import torch

        from engine.batching import EndlessBatches
        from engine.optimization import sgd
        from engine.perturbation import stratified_mask
        from engine.training.bilevel import Bilevel
        from engine.training.reference import partition

        self.spec, surrogate = spec, spec.surrogate
        device, batch_size = context.machine.device, surrogate.batch_size
        orders, weights = stream(spec.seed, "attack", "noise_order"), stream(spec.seed, "attack", "surrogate")
        self.noise = _noise(spec, images, context)
        self.pair = Bilevel(self.noise, context, draws=stream(spec.seed, "attack", "views"))
        optimizer = partial(sgd, lr=surrogate.lr, momentum=surrogate.momentum, weight_decay=surrogate.weight_decay)
        victim = build_plugin("victims", surrogate, source=context.source, generator=weights)
        self.pair.take(victim, optimizer)
        self.model_batches = EndlessBatches(len(images), batch_size, stream(spec.seed, "attack", "model_order"), device)
        context.journal.keep("model_batches", self.model_batches)
        chosen = stratified_mask(images.labels.cpu(), fraction=spec.noise_fraction, generator=orders).nonzero()[:, 0]
        self.noise_batches = partition(chosen[torch.randperm(len(chosen), generator=orders)], batch_size, device)

    def train_surrogate(self) -> float:
        """Take gradient steps on the weights, the noise frozen; return the last loss."""
        return self.pair.learn(self.model_batches, self.spec.model_steps, max_norm=self.spec.max_grad_norm)

    def learn_noise(self) -> float:
        """Take signed gradient steps on the noise, the surrogate frozen; return the mean loss before the last."""
        self.pair.start_perturbing()
        step_size = self.spec.step_size_rel * self.spec.epsilon
        return self.pair.sweep(self.noise_batches, steps=self.spec.pgd_steps, step_size=step_size)

    def error(self) -> float:
        """Return the frozen surrogate's share of errors on the poisoned images that noise is learnt on."""
        return self.pair.error(self.noise_batches)


def _noise(spec: Spec, images: ImageSet, context: AttackContext) -> Noise:
    from engine.noise import MemberNoise, Noise

    generator = stream(spec.seed, "attack", "delta")
    if spec.granularity == "class":
        return MemberNoise(images, context, epsilon=spec.epsilon, generator=generator)
    return Noise(images, context, granularity="sample", epsilon=spec.epsilon, generator=generator)


def build(spec: Spec) -> UnlearnableExamples:
    """Build the attack."""
    return UnlearnableExamples(spec)
