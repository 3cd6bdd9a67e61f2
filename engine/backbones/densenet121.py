"""DenseNet-121: every layer reads the feature maps of all layers of its block.

Name: DenseNet-121
Paper: Huang, Liu, van der Maaten & Weinberger, "Densely Connected Convolutional Networks", CVPR 2017 (DenseNet-BC).
Official code: liuzhuang13/DenseNet (Torch); kuangliu/pytorch-cifar, models/densenet.py, for the CIFAR stem.
Deviations: growth rate and the number of layers per block are fields; the defaults are DenseNet-121's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Source
from engine.spec import BackboneSpec, Positive

if TYPE_CHECKING:
    from engine.networks import Encoder


class Spec(BackboneSpec):
    """DenseNet-121 and its smaller relatives."""

    kind: Literal["densenet121"]
    # The growth rate k: channels that a layer adds; the stem has 2 k.
    width: Positive = 32
    stages: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (6, 12, 24, 16)
    # 'cifar': 3 x 3, stride 1, into the first block as it is; 'imagenet': 7 x 7, stride 2, batch norm, max-pool.
    stem: Literal["cifar", "imagenet"] = "cifar"

    @property
    def smallest_size(self) -> int:
        """Return how many input pixels one side of a pixel of the last feature map covers."""
        return {"cifar": 1, "imagenet": 4}[self.stem] * 2 ** (len(self.stages) - 1)


def build(spec: Spec, *, source: Source) -> Encoder:
    """Build the network; its weights are drawn by the learner it belongs to."""
    from torch import nn
    from torchvision.models.densenet import DenseNet

    from engine.networks import Encoder
    from engine.normalization import own_batch_norm_

    network = DenseNet(spec.width, spec.stages, 2 * spec.width)
    layers = list(own_batch_norm_(network.features).children())
    if spec.stem == "cifar":
        # In place of the stem's four: a block's first layer brings its own batch norm.
        layers[:4] = [nn.Conv2d(3, 2 * spec.width, 3, padding=1, bias=False)]
    backbone = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Encoder(backbone, mean=source.mean, std=source.std, features=network.classifier.in_features)
