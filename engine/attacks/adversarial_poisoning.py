"""Adversarial Poisoning: adversarial examples of a network that was trained on clean images.

Name: Adversarial Poisoning (AP, class-targeted or untargeted)
Paper: Fowl, Goldblum, Chiang, Geiping, Czaja & Goldstein, "Adversarial Examples Make Strong Poisons", NeurIPS 2021.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, reads labels and the whole
    data set, knows nothing of the victim's weights.
Official code: lhfowl/adversarial_poisons.
Deviations: the reference network follows the engine's cosine without Nesterov momentum, where the official one steps
    its rate down after epochs 14, 24 and 35 of 40; images are normalised with the data set's statistics, and shifted
    with black pixels around them, where the official code pads with zeros after normalising and aligns corners; the
    official start, clipped normal noise, takes the place of what a study's ``init`` says, unless ``start: init``; a
    batch takes all its steps before the next one, which is the same, because the network stands still. Unverified:
    the published accuracies, which need the full-scale run; the poison that the official code would make of our
    reference network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import AttackContext, ImageSet, Poison, Victim
from engine.randomness import stream
from engine.spec import AttackSpec, Positive
from engine.victimspec import VictimSpec, ViewsSpec

if TYPE_CHECKING:
    import torch

    from engine.noise import Noise
    from engine.views import Views


class Spec(AttackSpec):
    """Adversarial poisoning; the surrogate is the reference network, trained by its own recipe."""

    kind: Literal["adversarial_poisoning"]
    granularity: Literal["sample"] = "sample"
    # Official code: the label map y -> (y + 1) mod C is the strongest; untargeted ascends the true label's loss.
    goal: Literal["class_targeted", "untargeted"] = "class_targeted"
    surrogate: spec_of("victims", "classifies")  # type: ignore[valid-type]
    # The views that noise steps meet; null: those that the surrogate learns from, as in the official code (a sub-pixel
    # shift of up to 4 pixels, and a flip).
    views: ViewsSpec | None = None
    # Official code: 250 steps of 0.05 epsilon, 512 images at a time.
    pgd_steps: Positive = 250
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.05
    noise_batch_size: Positive = 512
    # How many starts are tried; the noise of the lowest loss is kept. Official code: 8 restarts; its README allows 1.
    trials: Positive = 8
    # 'normal' is the official code's start, clip(N(0, 1) epsilon); 'init' takes what the study says.
    start: Literal["normal", "init"] = "normal"

    @property
    def learner(self) -> VictimSpec:
        """Return the surrogate."""
        learner: VictimSpec = self.surrogate
        return learner

    def image_views(self, images: int) -> int:
        """Predict the cost: the surrogate's training, and every trial's steps on all images."""
        views = self.surrogate.views_per_image if self.views is None else 1
        cost: int = self.surrogate.image_views(images) + self.trials * self.pgd_steps * images * views
        return cost


@dataclass(frozen=True)
class AdversarialPoisoning:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Train the reference network, then keep the best of several attacks on it."""
        import torch

        from engine.training.bilevel import Bilevel
        from engine.training.reference import adversarial, partition

        spec, journal = self.spec, context.journal
        batches = partition(torch.arange(len(images)), spec.noise_batch_size, context.machine.device)
        done, total = spec.surrogate.epochs, spec.surrogate.epochs + spec.trials * len(batches)
        victim, cost = self._reference(images, context, total)
        deltas, draws = (stream(spec.seed, "attack", name) for name in ("delta", "views"))
        best = _Best(self._noise(images, replace(context, init="zero"), deltas), cost=cost)
        for name, part in (("deltas", deltas), ("draws", draws), ("best", best)):
            journal.keep(name, part)
        for trial in journal.loop("trial", spec.trials):
            pair = Bilevel(self._start(images, context, deltas), context, draws=draws)
            pair.take_frozen(victim, self._views())

            def report(count: int, trial: int = trial) -> None:
                note = f"trial {trial + 1} of {spec.trials}, lowest objective so far {best.lowest:.3f}"
                context.progress(done + trial * len(batches) + count, total, note)

            loss = pair.sweep(
                batches,
                steps=spec.pgd_steps,
                step_size=spec.step_size_rel * spec.epsilon,
                objective=adversarial(spec.goal, context.source.num_classes),
                report=report,
            )
            best.consider(pair.noise, loss, pair.image_views)
        return best.noise.poison(victim.network, image_views=best.cost)

    def _reference(self, images: ImageSet, context: AttackContext, total: int) -> tuple[Victim, int]:
        """Return the trained network and what it cost."""
        from engine.training.pretrain import Recipe
        from engine.training.reference import train_reference

        surrogate, seed = self.spec.surrogate, self.spec.seed
        weights, training = (stream(seed, "attack", name) for name in ("surrogate", "training"))
        victim: Victim = build_plugin("victims", surrogate, source=context.source, generator=weights)
        recipe = Recipe(**surrogate.recipe())
        context.journal.keep("reference", victim.network)
        cost = context.journal.once(
            "training",
            lambda: train_reference(victim, images, context, recipe=recipe, generator=training, total=total),
        )
        return victim, cost

    def _start(self, images: ImageSet, context: AttackContext, generator: torch.Generator) -> Noise:
        """Return the noise of a trial before its first step."""
        if self.spec.start == "init":
            return self._noise(images, context, generator)
        noise = self._noise(images, replace(context, init="zero"), generator)
        noise.draw_normal_(generator)
        return noise

    def _noise(self, images: ImageSet, context: AttackContext, generator: torch.Generator) -> Noise:
        from engine.noise import Noise

        return Noise(images, context, granularity="sample", epsilon=self.spec.epsilon, generator=generator)

    def _views(self) -> tuple[Views] | None:
        """Return the views that noise steps meet, where they have their own."""
        from engine.views import Views

        return None if self.spec.views is None else (Views(**self.spec.views.arguments()),)


@dataclass
class _Best:
    """The noise of the lowest objective, and what all trials cost."""

    noise: Noise
    cost: int
    lowest: float = math.inf

    def consider(self, noise: Noise, loss: float, image_views: int) -> None:
        """Keep the noise of a trial if it is the first, or better than those before."""
        self.cost += image_views
        if self.lowest == math.inf or loss < self.lowest:
            self.noise.values.block.copy_(noise.values.block)
            self.lowest = loss

    def state_dict(self) -> dict[str, Any]:
        """Return what a stopped search must find again."""
        return {"noise": self.noise.values.state_dict(), "cost": self.cost, "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a stopped search has found."""
        self.noise.values.load_state_dict(state["noise"])
        self.cost, self.lowest = state["cost"], state["lowest"]


def build(spec: Spec) -> AdversarialPoisoning:
    """Build the attack."""
    return AdversarialPoisoning(spec)
