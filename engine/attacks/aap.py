"""Augmented Adversarial Poisoning: adversarial examples of a network trained under contrastive-strength augmentation.

Name: AAP (augmented adversarial poisoning)
Paper: Wang, Zhu & Gao, "Efficient Availability Attacks against Supervised and Contrastive Learning Simultaneously",
    NeurIPS 2024.
Threat model: perturbs the released images inside an l-infinity ball, leaves labels alone, reads labels and the whole
    data set, knows nothing of the victim's weights; aims at supervised and contrastive learners at once.
Official code: EhanW/AUE-AAP, aap.py.
Deviations: the reference network normalises with the data set's statistics, and trains on whole batches. Unverified:
    the official start of the noise (ours is what a study's ``init`` says), the reference network's weight decay and
    last rate (taken to be those of AUE), and the published accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
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

Strength = Annotated[float, Field(ge=0, le=2.5)]


class Spec(AttackSpec):
    """AAP; of the surrogate's views only the size counts: the strength says the rest."""

    kind: Literal["aap"]
    granularity: Literal["sample"] = "sample"
    goal: Literal["class_targeted", "untargeted"] = "class_targeted"
    # Official code: cross-entropy, SGD 0.5, cosine over 40 epochs, batches of 128.
    surrogate: spec_of("victims", "classifies")  # type: ignore[valid-type]
    # Official code: 0.4 for CIFAR-10, 0.8 for CIFAR-100.
    strength: Strength = 0.4
    # The strength that noise steps meet; null: the one that the network learnt from, as in the official code.
    noise_strength: Strength | None = None
    # Official code: 250 steps of 2.5 epsilon / 250.
    pgd_steps: Positive = 250
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.01

    @property
    def learner(self) -> VictimSpec:
        """Return the surrogate with views of the strength."""
        learner: VictimSpec = self.augmented_surrogate
        return learner

    def image_views(self, images: int) -> int:
        """Predict the cost: the surrogate's training, and steps on all images."""
        return self.learner.image_views(images) + self.pgd_steps * images

    @property
    def augmented_surrogate(self) -> VictimSpec:
        """Return the surrogate with views of the strength."""
        augmented: VictimSpec = self.surrogate.model_copy(update={"views": self._views(self.strength)})
        return augmented

    @property
    def noise_views(self) -> ViewsSpec:
        """Return the views that noise steps meet."""
        return self._views(self.strength if self.noise_strength is None else self.noise_strength)

    def _views(self, strength: float) -> ViewsSpec:
        from engine.views.strength import chain_of_strength

        return ViewsSpec(size=self.surrogate.views.size, **chain_of_strength(strength))


@dataclass(frozen=True)
class AAP:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Train the reference network on clean images, then attack it."""
        import torch

        from engine.noise import Noise
        from engine.training.bilevel import Bilevel
        from engine.training.pretrain import Recipe
        from engine.training.reference import adversarial, partition, train_reference
        from engine.views import Views

        spec, machine, surrogate = self.spec, context.machine, self.spec.augmented_surrogate
        deltas, draws, weights, training = (
            stream(spec.seed, "attack", name) for name in ("delta", "views", "surrogate", "training")
        )
        batches = partition(torch.arange(len(images)), surrogate.batch_size, machine.device)
        total = surrogate.epochs + len(batches)
        victim = build_plugin("victims", surrogate, source=context.source, generator=weights)
        context.journal.keep("reference", victim.network)
        cost = context.journal.once(
            "training",
            lambda: train_reference(
                victim, images, context, recipe=Recipe(**surrogate.recipe()), generator=training, total=total
            ),
        )
        noise = Noise(images, context, granularity="sample", epsilon=spec.epsilon, generator=deltas)
        pair = Bilevel(noise, context, draws=draws)
        pair.take_frozen(victim, [Views(**spec.noise_views.arguments())])
        pair.sweep(
            batches,
            steps=spec.pgd_steps,
            step_size=spec.step_size_rel * spec.epsilon,
            objective=adversarial(spec.goal, context.source.num_classes),
            report=lambda done: context.progress(surrogate.epochs + done, total, f"batches of {spec.goal} noise"),
        )
        return noise.poison(victim.network, image_views=cost + pair.image_views)


def build(spec: Spec) -> AAP:
    """Build the attack."""
    return AAP(spec)
