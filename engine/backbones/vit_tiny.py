"""ViT-Tiny: self-attention over patches and a class token, whose last state is the features.

Name: ViT-Tiny
Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; the tiny size is that of Touvron et al.,
    "Training data-efficient image transformers", ICML 2021 (DeiT-Ti: 192 dimensions, 12 layers, 3 heads).
Official code: facebookresearch/deit, models.py; the blocks are torchvision's vision_transformer.py.
Deviations: patches of 4 x 4 on 32 x 32 images by default; initial weights are those of ``engine.networks``. It has no
    batch norm, so that no setting of batch norm reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from engine.protocols import Source
from engine.spec import BackboneSpec, Positive

if TYPE_CHECKING:
    from engine.networks import Encoder


class Spec(BackboneSpec):
    """ViT-Tiny and its smaller relatives; at 224 pixels, ``{image_size: 224, patch: 16}`` is DeiT-Ti."""

    kind: Literal["vit_tiny"]
    # The position embedding is learnt for images of this size alone.
    image_size: Positive = 32
    patch: Positive = 4
    # Dimensions of a token; the hidden layer of a block has four times as many.
    width: Positive = 192
    depth: Positive = 12
    heads: Positive = 3

    @property
    def smallest_size(self) -> int:
        """Return the size of the position embedding."""
        return self.image_size

    def size_fault(self, size: int) -> str | None:
        """Refuse every size but the position embedding's."""
        if size == self.image_size:
            return None
        return f"given {size}, but this {self.kind} takes images of its image_size, {self.image_size} pixels, alone"

    @model_validator(mode="after")
    def _divides(self) -> Spec:
        if self.image_size % self.patch:
            raise ValueError(f"patch: must divide image_size ({self.image_size}), given {self.patch}")
        if self.width % self.heads:
            raise ValueError(f"heads: must divide width ({self.width}), given {self.heads}")
        return self


def build(spec: Spec, *, source: Source) -> Encoder:
    """Build the network; its weights are drawn by the learner it belongs to."""
    from torch import nn
    from torchvision.models.vision_transformer import VisionTransformer

    from engine.networks import Encoder

    backbone = VisionTransformer(spec.image_size, spec.patch, spec.depth, spec.heads, spec.width, 4 * spec.width)
    backbone.heads = nn.Identity()
    return Encoder(backbone, mean=source.mean, std=source.std, features=spec.width)
