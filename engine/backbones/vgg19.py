"""VGG-19 with batch norm: sixteen 3 x 3 convolutions, a max-pool after 2, 4, 8, 12 and 16 of them.

Name: VGG-19-BN
Paper: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
    configuration E; batch norm after every convolution as in torchvision's vgg19_bn.
Official code: kuangliu/pytorch-cifar, models/vgg.py (512 features, no hidden linear layers).
Deviations: the features are averaged over the last feature map in place of the two linear layers of 4096, so that
    images of 32 and of 224 pixels take the same network and there is no choice of a stem; width is a field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.protocols import Source
from engine.spec import BackboneSpec, Positive

if TYPE_CHECKING:
    from engine.networks import Encoder


class Spec(BackboneSpec):
    """VGG-19 and its narrower relatives."""

    kind: Literal["vgg19"]
    # Channels of the first two convolutions; the last eight have eight times as many.
    width: Positive = 64

    @property
    def smallest_size(self) -> int:
        """Return how many input pixels one side of a pixel of the last feature map covers: five max-pools halve."""
        return 32


def build(spec: Spec, *, source: Source) -> Encoder:
    """Build the network; its weights are drawn by the learner it belongs to."""
    from torch import nn
    from torchvision.models.vgg import cfgs, make_layers

    from engine.networks import Encoder
    from engine.normalization import own_batch_norm_

    plan = [step if isinstance(step, str) else step * spec.width // 64 for step in cfgs["E"]]
    layers = own_batch_norm_(make_layers(plan, batch_norm=True))
    backbone = nn.Sequential(*layers.children(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Encoder(backbone, mean=source.mean, std=source.std, features=8 * spec.width)
