"""Residual networks of any block and depth; the ResNets of ``engine.backbones`` are settings of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.spec import BackboneSpec, Positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torchvision.models.resnet import BasicBlock, Bottleneck


class ResidualSpec(BackboneSpec):
    """What every ResNet declares."""

    # Channels of the first stage; every further one has twice as many.
    width: Positive = 64
    stages: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)]
    # 'cifar': 3 x 3, stride 1; 'cifar_stride2': 3 x 3, stride 2; 'imagenet': 7 x 7, stride 2, max-pool.
    stem: Literal["cifar", "cifar_stride2", "imagenet"] = "cifar"

    @property
    def smallest_size(self) -> int:
        """Return how many input pixels one side of a pixel of the last feature map covers."""
        return {"cifar": 1, "cifar_stride2": 2, "imagenet": 4}[self.stem] * 2 ** (len(self.stages) - 1)


def residual_network(
    block: type[BasicBlock | Bottleneck], *, width: int, stages: Sequence[int], stem: str
) -> tuple[nn.Sequential, int]:
    """Build a ResNet without its classifier, and return it with the number of its features.

    Source: He et al. 2016, table 1. A bottleneck strides in its 3 x 3 convolution, as torchvision's does.
    """
    from torch import nn

    from engine.normalization import BatchNorm2d

    kernel, stride = {"cifar": (3, 1), "cifar_stride2": (3, 2), "imagenet": (7, 2)}[stem]
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, kernel, stride=stride, padding=kernel // 2, bias=False),
        BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    if stem == "imagenet":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    for stage, blocks in enumerate(stages):
        inner = width * 2**stage
        out = inner * block.expansion
        for index in range(blocks):
            step = 2 if stage > 0 and index == 0 else 1
            shortcut = None
            if step != 1 or channels != out:
                shortcut = _shortcut(channels, out, step)
            layers.append(block(channels, inner, stride=step, downsample=shortcut, norm_layer=BatchNorm2d))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


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
