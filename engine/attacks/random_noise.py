"""Uniform noise inside the ball: what a budget does without an attacker's thought.

Name: Random noise
Paper: He, Zha & Katabi, ICLR 2023, Table 1, second row (uniform noise in [-8/255, 8/255]).
Threat model: knows neither learner nor data; class-wise noise needs labels.
Deviations: the paper does not say whether its noise is per image or per class: both are offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.protocols import AttackContext, ImageSet, Poison
from engine.randomness import stream
from engine.spec import AttackSpec


class Spec(AttackSpec):
    """Uniform noise."""

    kind: Literal["random_noise"]
    granularity: Literal["sample", "class"] = "sample"


@dataclass(frozen=True)
class RandomNoise:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Draw the noise; what ``init`` says is replaced by the draw."""
        from engine.perturbation import initial_noise

        noise = initial_noise(
            "uniform",
            images,
            granularity=self.spec.granularity,
            epsilon=self.spec.epsilon,
            generator=stream(self.spec.seed, "attack", "delta"),
        )
        return Poison(noise.cpu(), self.spec.granularity, unit=self.spec.epsilon)


def build(spec: Spec) -> RandomNoise:
    """Build the noise."""
    return RandomNoise(spec)
