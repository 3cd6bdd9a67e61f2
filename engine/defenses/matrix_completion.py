"""Matrix completion: pixels are dropped at random and estimated again from the image's largest singular values.

Name: Matrix completion (ME-Net with USVT)
Paper: Yang, Zhang, Katabi & Xu, "ME-Net: Towards Effective Adversarial Robustness with Matrix Estimation", ICML 2019;
    as a defense against poison: He, Zha & Katabi, ICLR 2023, Table 8 (a quarter dropped, half of the singular values
    kept).
Threat model: knows nothing of the attack; hopes that images are of lower rank than the poison.
Official code: YyzHarry/ME-Net, whose images are completed before crop and flip. Of He, Zha & Katabi, none for this.
Deviations: estimates are not cut to eight bits, except where the position is the data set, and there they are rounded.
    One drop probability, drawn anew for each view, where ME-Net keeps ten versions of an image, each of another
    probability. He, Zha & Katabi do not say how channels are laid out and dropped, when pixels are dropped again, and
    where in the chain: here each is a field. No gradient passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.spec import ImageDefenseSpec, Number, Position

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.training.defending import ImageDefense


class Spec(ImageDefenseSpec):
    """The defaults are those of He, Zha & Katabi, and where they say nothing, ME-Net's."""

    kind: Literal["matrix_completion"]
    position: Position = "before_view"
    # He, Zha & Katabi 2023, Table 8: a quarter of the values dropped, half of the singular values clipped.
    drop_probability: Annotated[Number, Field(ge=0, lt=1)] = 0.25
    # Of the singular values, by rank; the count is rounded down.
    keep_fraction: Annotated[Number, Field(gt=0, le=1)] = 0.5
    # One matrix an image, its channels side by side, or one a channel.
    channels: Literal["concat", "separate"] = "concat"
    # What is dropped alone: an entry of one channel, or a pixel, from all channels. ME-Net drops entries from
    # concatenated channels and pixels from separate ones.
    drops: Literal["entry", "pixel"] = "entry"


@dataclass(frozen=True)
class Completion:
    """See the module."""

    drop_probability: float
    keep_fraction: float
    channels: Literal["concat", "separate"]
    drops: Literal["entry", "pixel"]

    def __call__(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Drop pixels of images in [0, 1] and return the estimates of all pixels."""
        import torch

        from engine.completion import complete
        from engine.transfer import to_device

        batch, channels, height, width = images_BCHW.shape
        draws = torch.rand(batch, channels if self.drops == "entry" else 1, height, width, generator=generator)
        observed = to_device(draws >= self.drop_probability, images_BCHW.device).expand_as(images_BCHW)
        matrices = self._as_matrices(images_BCHW * 2 - 1)
        keep = int(self.keep_fraction * min(matrices.shape[1:]))
        estimates = complete(matrices, self._as_matrices(observed), keep=keep).add_(1).div_(2)
        if self.channels == "separate":
            return estimates.unflatten(0, (batch, channels))
        return estimates.unflatten(2, (channels, width)).transpose(1, 2)

    def _as_matrices(self, values_BCHW: Tensor) -> Tensor:
        return values_BCHW.flatten(0, 1) if self.channels == "separate" else values_BCHW.transpose(1, 2).flatten(2)


def build(spec: Spec) -> ImageDefense:
    """Build the defense."""
    from engine.training.defending import ImageDefense

    transform = Completion(spec.drop_probability, spec.keep_fraction, spec.channels, spec.drops)
    return ImageDefense(transform, spec.position)
