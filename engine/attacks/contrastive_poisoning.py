"""Contrastive Poisoning: noise and surrogate together minimise the contrastive loss.

Name: Contrastive Poisoning (CP-S sample-wise, CP-C class-wise)
Paper: He, Zha & Katabi, "Indiscriminate Poisoning Attacks on Unsupervised Contrastive Learning",
    ICLR 2023, Algorithm 1.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, knows nothing of
    the victim's weights. Class-wise noise needs labels.
Official code: kaiwenzha/contrastive-poisoning, main.py and model.py.
Deviations: noise is projected after each step and never clamped inside the graph (since torch 2.14 a clamp
    has no gradient at its bounds, and noise on the bound would stay there); noise steps continue through
    one persistent order of the images, so that a round with fewer noise steps than batches still visits
    every image equally often; ``restarts`` is not in the paper: fresh surrogates take the noise over in turn,
    which makes it one that young networks learn (docs/log.md; Huang et al. 2020, MetaPoison, restart their
    surrogates for the same reason).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import AttackContext, ImageSet, Poison, Victim
from engine.randomness import stream
from engine.spec import AttackSpec, Positive

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True)
class ContrastivePoisoning:
    """Algorithm 1."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Alternate between the surrogate and the noise."""
        search, rounds = _Search(self.spec, images, context), self.spec.rounds
        total = rounds * (self.spec.restarts + 1)
        for done in range(total):
            if done and done % rounds == 0:
                search.take_fresh_surrogate(done // rounds)
            search.set_lr(done % rounds)
            model_loss = search.train_surrogate()
            noise_loss = search.learn_noise()
            note = f"loss after model steps {model_loss:.3f}, after noise steps {noise_loss:.3f}"
            context.progress(done + 1, total, note)
        return Poison(search.noise.cpu(), self.spec.granularity, search.image_views, unit=self.spec.epsilon)


class _Search:
    """The surrogate, the noise and the streams that Algorithm 1 moves."""

    def __init__(self, spec: Spec, images: ImageSet, context: AttackContext) -> None:
        from engine.batching import endless_batches
        from engine.perturbation import initial_noise

        self.spec, self.images, self.perturbed = spec, images, context.perturbed
        self.perturbs_all = bool(context.perturbed.all())
        self.executor, self.source = context.executor, context.source
        self.precision = context.executor.precision
        self.scaler = self.precision.scaler()
        self.noise = initial_noise(
            context.init,
            images,
            granularity=spec.granularity,
            epsilon=spec.epsilon,
            generator=stream(spec.seed, "attack", "delta"),
        )
        self.model_batches, self.noise_batches = (
            endless_batches(
                len(images), spec.surrogate.batch_size, stream(spec.seed, "attack", name), context.executor.device
            )
            for name in ("model_order", "noise_order")
        )
        self.draws = stream(spec.seed, "attack", "views")
        self.image_views = 0
        self.take_fresh_surrogate(0)

    def take_fresh_surrogate(self, number: int) -> None:
        """Build the surrogate of a number with weights of its own, and its optimizer."""
        from engine.optimization import sgd

        surrogate = self.spec.surrogate
        names = ("surrogate", str(number)) if number else ("surrogate",)
        weights = stream(self.spec.seed, "attack", *names)
        self.victim: Victim = build_plugin("victims", surrogate, source=self.source, generator=weights)
        self.executor.place(self.victim.network)
        self.optimizer = sgd(
            self.victim.network.parameters(),
            lr=surrogate.lr,
            momentum=surrogate.momentum,
            weight_decay=surrogate.weight_decay,
        )

    def set_lr(self, round_: int) -> None:
        """Anneal the surrogate's rate over the rounds; there is no warm-up here (official code)."""
        from engine.optimization import cosine_lr, set_lr

        surrogate = self.spec.surrogate
        progress = (round_ + 1) / self.spec.rounds
        set_lr(self.optimizer, cosine_lr(progress, lr=surrogate.lr, final_lr_rel=surrogate.final_lr_rel))

    def train_surrogate(self) -> float:
        """Lines 3 to 6: gradient steps on the weights, the noise frozen; return the last loss."""
        from engine.optimization import descend

        network = self.victim.network.train().requires_grad_(True)
        for _ in range(self.spec.model_steps):
            rows = next(self.model_batches)
            loss = self._loss(rows, self._clean(rows), self._spread(self._touched(rows), rows))
            descend(loss, self.optimizer, self.scaler)
            self.victim.after_step()
        network.requires_grad_(False)
        return loss.item()

    def learn_noise(self) -> float:
        """Lines 7 to 14: signed gradient steps on the noise, the surrogate frozen; return the last loss."""
        import torch

        from engine.perturbation import descend_linf

        self.victim.network.eval()
        step_size = self.spec.step_size_rel * self.spec.epsilon
        for _ in range(self.spec.noise_steps):
            rows = next(self.noise_batches)
            clean, touched = self._clean(rows), self._touched(rows).requires_grad_()
            for _ in range(self.spec.pgd_steps):
                loss = self._loss(rows, clean, self._spread(touched, rows))
                (grad,) = torch.autograd.grad(loss * self.precision.loss_scale, touched)
                step = descend_linf(touched.detach(), grad, step_size=step_size, epsilon=self.spec.epsilon)
                touched = step.requires_grad_()
            self._write(rows, touched.detach())
        return loss.item()

    def _touched(self, rows: Tensor) -> Tensor:
        """Return the noise that a batch meets, in pixel units: a row an image, or all classes.

        The gradient of the noise exists for these rows alone, never for the data set.
        """
        noise = self.noise[rows] if self.spec.granularity == "sample" else self.noise
        return noise.float() * self.spec.epsilon

    def _spread(self, touched: Tensor, rows: Tensor) -> Tensor:
        """Return the noise of each image of a batch, zero where an image stays clean."""
        delta = touched if self.spec.granularity == "sample" else touched[self.images.labels[rows]]
        return delta if self.perturbs_all else delta * self.perturbed[rows, None, None, None]

    def _write(self, rows: Tensor, touched: Tensor) -> None:
        noise = (touched / self.spec.epsilon).half()
        if self.spec.granularity == "sample":
            self.noise[rows] = noise
        else:
            self.noise = noise

    def _clean(self, rows: Tensor) -> Tensor:
        return self.images.images_u8[rows].float() / 255

    def _loss(self, rows: Tensor, clean: Tensor, delta: Tensor) -> Tensor:
        """Return the contrastive loss of fresh views of poisoned images."""
        from engine.perturbation import add_poison

        poisoned = add_poison(clean, delta)
        views = [view(self.draws, poisoned) for view in self.victim.views]
        self.image_views += len(rows) * len(views)
        with self.precision.autocast():
            return self.victim.loss(views, self.images.labels[rows])


def build(spec: Spec) -> ContrastivePoisoning:
    """Build the attack."""
    return ContrastivePoisoning(spec)
