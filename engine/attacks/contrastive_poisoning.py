"""Contrastive Poisoning: noise and surrogate together minimise the contrastive loss.

Name: Contrastive Poisoning (CP-S sample-wise, CP-C class-wise)
Paper: He, Zha & Katabi, "Indiscriminate Poisoning Attacks on Unsupervised Contrastive Learning",
    ICLR 2023, Algorithm 1.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, knows nothing of
    the victim's weights. Class-wise noise needs labels.
Official code: kaiwenzha/contrastive-poisoning, main.py and model.py.
Deviations: noise is projected after each step and never clamped inside the graph (since torch 2.14 a clamp has no
    gradient at its bounds, and noise on the bound would stay there); noise steps continue through one persistent
    order of the images, so that a round with fewer noise steps than batches still visits every image equally often;
    under ``gradient: dual`` BYOL's noise gradient passes the momentum branch as the paper says, where the official
    code's flag does nothing, because its loss detaches the target; ``moving_surrogate`` is a habit of the official
    code that Algorithm 1 does not have; ``noise_views`` other than the surrogate's are an ablation; ``warmup_rounds``
    and ``restarts`` are in neither: fresh surrogates take the noise over in turn, which makes it one that young
    networks learn (docs/log.md; Huang et al. 2020, MetaPoison, restart their surrogates for the same reason).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import AttackContext, Gradient, ImageSet, Poison, Victim
from engine.randomness import stream
from engine.spec import AttackSpec, Positive
from engine.victimspec import ViewsSpec

if TYPE_CHECKING:
    from torch import Tensor

    from engine.victimspec import VictimSpec


class Spec(AttackSpec):
    """Contrastive Poisoning; a surrogate's own ``epochs`` and ``warmup_epochs`` play no part."""

    kind: Literal["contrastive_poisoning"]
    granularity: Literal["sample", "class"]
    surrogate: spec_of("victims")  # type: ignore[valid-type]
    rounds: Positive
    model_steps: Positive
    noise_steps: Positive
    pgd_steps: Positive
    # Fraction of epsilon. Paper: eps / 10 for both granularities.
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.1
    # How often a fresh surrogate takes the noise over, for as many rounds again. Paper: never; official code: once,
    # between CP-C and the CP-S that starts from it.
    restarts: Annotated[int, Field(ge=0)] = 0
    # Over how many of its first rounds a surrogate's rate climbs. Paper and official code: none; a small MoCo that
    # starts at its full rate maps all images to one point, and stays there.
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    # Whether noise steps send their gradient through the branch of the momentum encoder (of the stopped gradient,
    # for SimSiam) too. Paper: dual (section 4.3); SimCLR has no such branch.
    gradient: Gradient = "dual"
    # The views that noise steps are learnt through; by default the surrogate's own. Views that leave the image as it is
    # make noise that takes no account of the augmentations, as poisons for supervised learning did (section 4.3).
    noise_views: ViewsSpec | None = None
    # The official code's habit: the momentum encoder and the queue move at every noise step too.
    moving_surrogate: bool = False

    @model_validator(mode="after")
    def _noise_views_fit(self) -> Self:
        if self.noise_views and self.noise_views.size != (size := self.learner.views.size):
            raise ValueError(f"noise_views.size: given {self.noise_views.size}, but the surrogate sees {size} pixels")
        return self

    @property
    def learner(self) -> VictimSpec:
        """Return the surrogate."""
        learner: VictimSpec = self.surrogate
        return learner

    def image_views(self, images: int) -> int:
        """Predict the cost: whole batches, however many images there are."""
        steps = self.model_steps + self.noise_steps * self.pgd_steps
        rounds = (self.restarts + 1) * self.rounds
        return rounds * steps * self.surrogate.batch_size * self.surrogate.views_per_image


@dataclass(frozen=True)
class ContrastivePoisoning:
    """Algorithm 1."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Alternate between the surrogate and the noise."""
        search, rounds = _Search(self.spec, images, context), self.spec.rounds
        total = rounds * (self.spec.restarts + 1)
        for done in context.journal.loop("round", total):
            if done and done % rounds == 0:
                search.take_fresh_surrogate(done // rounds)
            search.set_lr(done % rounds)
            model_loss = context.journal.once("model", search.train_surrogate)
            noise_loss = context.journal.once("noise", search.learn_noise)
            note = f"loss after model steps {model_loss:.3f}, after noise steps {noise_loss:.3f}"
            context.progress(done + 1, total, note)
        return search.noise.poison(search.pair.victim.network, image_views=search.pair.image_views)


class _Search:
    """The surrogate, the noise and the streams that Algorithm 1 moves."""

    def __init__(self, spec: Spec, images: ImageSet, context: AttackContext) -> None:
        from engine.batching import EndlessBatches
        from engine.noise import Noise
        from engine.training.bilevel import Bilevel

        self.spec, self.source = spec, context.source
        self.noise = Noise(
            images,
            context,
            granularity=spec.granularity,
            epsilon=spec.epsilon,
            generator=stream(spec.seed, "attack", "delta"),
        )
        self.model_batches, self.noise_batches = (
            EndlessBatches(
                len(images), spec.surrogate.batch_size, stream(spec.seed, "attack", name), context.machine.device
            )
            for name in ("model_order", "noise_order")
        )
        self.pair = Bilevel(self.noise, context, draws=stream(spec.seed, "attack", "views"))
        context.journal.keep("model_batches", self.model_batches)
        context.journal.keep("noise_batches", self.noise_batches)
        self.take_fresh_surrogate(0)

    def take_fresh_surrogate(self, number: int) -> None:
        """Build the surrogate of a number with weights of its own, and its optimizer."""
        from engine.optimization import sgd
        from engine.views import Views

        surrogate = self.spec.surrogate
        names = ("surrogate", str(number)) if number else ("surrogate",)
        weights = stream(self.spec.seed, "attack", *names)
        victim: Victim = build_plugin("victims", surrogate, source=self.source, generator=weights)
        optimizer = partial(sgd, lr=surrogate.lr, momentum=surrogate.momentum, weight_decay=surrogate.weight_decay)
        other = self.spec.noise_views
        self.pair.take(victim, optimizer, [Views(**other.arguments()) for _ in victim.views] if other else None)

    def set_lr(self, round_: int) -> None:
        """Anneal the surrogate's rate over the rounds, after its warm-up."""
        from engine.optimization import cosine_lr, set_lr

        surrogate = self.spec.surrogate
        progress, climb = (round_ + 1) / self.spec.rounds, (round_ + 1) / (self.spec.warmup_rounds + 1)
        lr = cosine_lr(progress, lr=surrogate.lr, final_lr_rel=surrogate.final_lr_rel)
        set_lr(self.pair.optimizer, min(climb, 1.0) * lr)

    def train_surrogate(self) -> float:
        """Lines 3 to 6: gradient steps on the weights, the noise frozen; return the last loss."""
        return self.pair.learn(self.model_batches, self.spec.model_steps)

    def learn_noise(self) -> float:
        """Lines 7 to 14: signed gradient steps on the noise, the surrogate frozen; return the last loss."""
        return self.pair.perturb_batches(
            self.noise_batches,
            self.spec.noise_steps,
            steps=self.spec.pgd_steps,
            step_size=self.spec.step_size_rel * self.spec.epsilon,
            objective=self._objective,
            moving=self.spec.moving_surrogate,
        )

    def _objective(self, victim: Victim, views: Sequence[Tensor], labels: Tensor, delta: Tensor) -> Tensor:
        return victim.loss(views, labels, gradient=self.spec.gradient)


def build(spec: Spec) -> ContrastivePoisoning:
    """Build the attack."""
    return ContrastivePoisoning(spec)
