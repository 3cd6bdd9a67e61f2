"""No attack on fewer images: the clean ones that stay when an attacker perturbs a share of the data set.

Name: Clean remainder
Paper: He, Zha & Katabi, ICLR 2023, Table 5 (the reference of every poisoning ratio: training on the clean share alone).
Threat model: none; the released images are originals. Whatever a victim learns beyond this reference from a partly
    poisoned data set, it learns from the poisoned images.
Deviations: the paper does not say how its poisoned images were drawn; here an attack perturbs, and this reference
    withholds, the same share of every class, and the same images where both have the same ``seed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.protocols import AttackContext, ImageSet, Poison
from engine.spec import AttackSpec, Number


class Spec(AttackSpec):
    """How much is withheld; the rest is released as it is."""

    kind: Literal["clean_remainder"]
    granularity: Literal["class"] = "class"
    epsilon: Annotated[Number, Field(ge=0, le=0)] = 0.0
    # The share that the attack perturbs; one of 1 would leave nothing to train on.
    poison_fraction: Annotated[float, Field(gt=0, lt=1)]

    @property
    def withheld_fraction(self) -> float:
        """Return the share that the attack perturbs."""
        return self.poison_fraction


@dataclass(frozen=True)
class CleanRemainder:
    """See the module."""

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Withhold the images that may change; the zero noise is stored once per class."""
        import torch

        noise = torch.zeros(len(images.class_names), *images.images_u8.shape[1:])
        return Poison(noise, "class", withheld=context.perturbed)


def build(spec: Spec) -> CleanRemainder:
    """Build the reference."""
    return CleanRemainder()
