"""MobileNetV2: inverted residuals, narrow outside and six times as wide inside.

Name: MobileNetV2
Paper: Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
Official code: torchvision, mobilenetv2.py; kuangliu/pytorch-cifar, models/mobilenetv2.py, for the strides on CIFAR.
Deviations: on CIFAR the blocks are the paper's. kuangliu/pytorch-cifar adds a 1 x 1 shortcut where a block changes the
    number of channels without a stride, and an expansion of factor one in the first block: 60,240 parameters more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Source
from engine.spec import BackboneSpec

if TYPE_CHECKING:
    from engine.networks import Encoder

# Expansion, channels, blocks, stride of the first block; Source: the paper's table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Spec(BackboneSpec):
    """MobileNetV2 of any width."""

    kind: Literal["mobilenet_v2"]
    # The width multiplier: of every layer's channels, rounded to eights; the 1280 features never get fewer.
    width: Annotated[float, Field(gt=0)] = 1.0
    # 'cifar': the first convolution and the stage of 24 channels have stride 1; 'imagenet': both have stride 2.
    stem: Literal["cifar", "imagenet"] = "cifar"

    @property
    def smallest_size(self) -> int:
        """Return how many input pixels one side of a pixel of the last feature map covers."""
        return {"cifar": 8, "imagenet": 32}[self.stem]


def build(spec: Spec, *, source: Source) -> Encoder:
    """Build the network; its weights are drawn by the learner it belongs to."""
    from torch import nn
    from torchvision.models.mobilenetv2 import MobileNetV2

    from engine.networks import Encoder
    from engine.normalization import BatchNorm2d

    stages = [list(stage) for stage in STAGES]
    if spec.stem == "cifar":
        stages[1][3] = 1
    network = MobileNetV2(width_mult=spec.width, inverted_residual_setting=stages, norm_layer=BatchNorm2d)
    if spec.stem == "cifar":
        network.features[0][0].stride = (1, 1)
    backbone = nn.Sequential(*network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Encoder(backbone, mean=source.mean, std=source.std, features=network.last_channel)
