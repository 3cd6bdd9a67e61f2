"""No defense: the victim trains on what it was given.

Name: none
Threat model: trusts the released images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.protocols import ImageSet
from engine.spec import DefenseSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Spec(DefenseSpec):
    """Nothing to declare."""

    kind: Literal["none"]


class NoDefense:
    """See the module."""

    changes_dataset = False

    def on_dataset(self, images: ImageSet, generator: torch.Generator) -> ImageSet:
        """Return the training set as it is."""
        return images

    def on_view(self, view_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the view as it is."""
        return view_BCHW


def build(spec: Spec) -> NoDefense:
    """Build the absence of a defense."""
    return NoDefense()
