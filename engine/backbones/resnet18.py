"""ResNet-18, with the CIFAR stem and a width, so that a tiny one runs on a CPU.

Name: ResNet-18
Paper: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
Official code: kaiwenzha/contrastive-poisoning, resnet.py (3 x 3 stem, stride 1, no max-pool).
Deviations: width and the number of blocks per stage are fields; the defaults are ResNet-18's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Source
from engine.spec import BackboneSpec, Positive

if TYPE_CHECKING:
    from torch import nn

    from engine.networks import Encoder


class Spec(BackboneSpec):
    """ResNet-18 and its smaller relatives."""

    kind: Literal["resnet18"]
    width: Positive = 64
    stages: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (2, 2, 2, 2)
    # 'cifar': 3 x 3, stride 1; 'cifar_stride2': 3 x 3, stride 2; 'imagenet': 7 x 7, stride 2, max-pool.
    stem: Literal["cifar", "cifar_stride2", "imagenet"] = "cifar"

    @property
    def smallest_size(self) -> int:
        """Return how many input pixels one side of a pixel of the last feature map covers."""
        return {"cifar": 1, "cifar_stride2": 2, "imagenet": 4}[self.stem] * 2 ** (len(self.stages) - 1)


def build(spec: Spec, *, source: Source) -> Encoder:
    """Build the network; its weights are drawn by the learner it belongs to."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    from engine.networks import Encoder
    from engine.normalization import BatchNorm2d

    kernel, stride = {"cifar": (3, 1), "cifar_stride2": (3, 2), "imagenet": (7, 2)}[spec.stem]
    layers: list[nn.Module] = [
        nn.Conv2d(3, spec.width, kernel, stride=stride, padding=kernel // 2, bias=False),
        BatchNorm2d(spec.width),
        nn.ReLU(inplace=True),
    ]
    if spec.stem == "imagenet":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = spec.width
    for stage, blocks in enumerate(spec.stages):
        out = spec.width * 2**stage
        for block in range(blocks):
            step = 2 if stage > 0 and block == 0 else 1
            shortcut = None
            if step != 1 or channels != out:
                shortcut = _shortcut(channels, out, step)
            layers.append(BasicBlock(channels, out, stride=step, downsample=shortcut, norm_layer=BatchNorm2d))
            channels = out
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Encoder(backbone, mean=source.mean, std=source.std, features=channels)


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential:
    """Build the projection of a residual block: 1 x 1 convolution, batch norm.

    Narrow ones subsample first and convolve without stride, which gives the same values: the weight gradient
    of a strided 1 x 1 convolution of fewer than 16 channels-last channels (8 with AVX2) writes past its
    buffer on a CPU and corrupts the heap (oneDNN issue 6035, open; torch 2.14.1).
    """
    from torch import nn

    from engine.normalization import BatchNorm2d

    subsample = [nn.AvgPool2d(1, stride=stride)] if channels < 16 and stride > 1 else []
    convolution = nn.Conv2d(channels, out, 1, stride=1 if subsample else stride, bias=False)
    return nn.Sequential(*subsample, convolution, BatchNorm2d(out))
