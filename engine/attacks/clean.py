"""No attack: the reference that every poison is compared with.

Name: Clean
Threat model: none; the released images are the originals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.protocols import AttackContext, ImageSet, Poison
from engine.spec import AttackSpec, Number


class Spec(AttackSpec):
    """Nothing to declare."""

    kind: Literal["clean"]
    granularity: Literal["class"] = "class"
    epsilon: Annotated[Number, Field(ge=0, le=0)] = 0.0


@dataclass(frozen=True)
class Clean:
    """See the module."""

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Return zero noise, stored once per class because it takes no room there."""
        import torch

        return Poison(torch.zeros(len(images.class_names), *images.images_u8.shape[1:]), "class")


def build(spec: Spec) -> Clean:
    """Build the absence of an attack."""
    return Clean()
