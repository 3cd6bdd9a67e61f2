"""ResNet-18 against torchvision's and against counts made by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from engine.backbones import resnet18
from engine.networks import Encoder, initialize_
from engine.normalization import BatchNorm2d
from engine.protocols import Source
from engine.randomness import stream

# A mean of 0 and a deviation of 1: the encoder's own normalisation is then the identity.
PLAIN = Source(mean=(0.0,) * 3, std=(1.0,) * 3, num_classes=10)


def build(**settings: object) -> Encoder:
    return resnet18.build(resnet18.Spec(kind="resnet18", **settings), source=PLAIN)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_default_is_the_cifar_resnet18_without_its_classifier() -> None:
    encoder = build()
    assert count(encoder) == 11_168_832
    assert encoder.features == 512


def test_the_tiny_one_has_the_parameters_counted_by_hand() -> None:
    encoder = build(width=4, stages=(1, 1))
    stem = 3 * 4 * 9 + 2 * 4
    first = 2 * (4 * 4 * 9 + 2 * 4)
    second = (4 * 8 * 9 + 2 * 8) + (8 * 8 * 9 + 2 * 8) + (4 * 8 + 2 * 8)
    assert count(encoder) == stem + first + second == 1364
    assert encoder.features == 8


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_default_computes_what_torchvisions_resnet18_does(stem: str, training: bool) -> None:
    ours = initialize_(build(stem=stem), stream(0, "weights"))
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    if stem == "cifar":
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    # Both hold the same tensors in the same order: stem, blocks, shortcut after a block's convolutions.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.backbone.state_dict().values(), strict=True)))
    images = torch.rand(4, 3, 32, 32, generator=stream(0, "images"))
    ours.train(training)
    theirs.train(training)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stem", ["cifar", "cifar_stride2", "imagenet"])
@pytest.mark.parametrize("stages", [(1,), (1, 2), (1, 1, 1)])
def test_features_and_smallest_size_are_those_of_the_last_feature_map(stem: str, stages: tuple[int, ...]) -> None:
    spec = resnet18.Spec(kind="resnet18", width=2, stages=stages, stem=stem)
    encoder = resnet18.build(spec, source=PLAIN)
    images = torch.rand(2, 3, 32, 32, generator=stream(0, "images"))
    *layers, _pool, _flatten = encoder.backbone
    maps = nn.Sequential(*layers)(images)
    assert maps.shape == (2, encoder.features, 32 // spec.smallest_size, 32 // spec.smallest_size)
    assert encoder(images).shape == (2, encoder.features)
    assert sum(isinstance(layer, torchvision.models.resnet.BasicBlock) for layer in layers) == sum(stages)


def test_every_batch_norm_is_the_fast_one() -> None:
    norms = [module for module in build(width=2).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert {type(norm) for norm in norms} == {BatchNorm2d}


@pytest.mark.parametrize("width", [1, 4, 8, 15, 16])
def test_no_strided_1x1_convolution_is_so_narrow_that_onednn_corrupts_the_heap(width: int) -> None:
    # oneDNN issue 6035: below 8 input channels with AVX2, below 16 with AVX-512, in the channels-last layout.
    # The crash itself depends on the machine and would end the test run, so the modules are looked at instead.
    convolutions = [m for m in build(width=width, stages=(1, 1, 1)).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * 2 + 2
    strided = [m.in_channels for m in convolutions if m.kernel_size == (1, 1) and m.stride != (1, 1)]
    assert all(channels >= 16 for channels in strided)


@pytest.mark.parametrize("size", [8, 7])
def test_a_narrow_shortcut_has_the_values_of_the_strided_convolution(size: int) -> None:
    encoder = initialize_(build(width=4, stages=(1, 1)), stream(0, "weights"))
    *_, block, _pool, _flatten = encoder.backbone
    (convolution,) = (module for module in block.downsample if isinstance(module, nn.Conv2d))
    norm = block.downsample[-1]
    x = torch.rand(2, 4, size, size, generator=stream(0, "features"))
    expected = norm(nn.functional.conv2d(x, convolution.weight, stride=2))
    torch.testing.assert_close(block.downsample(x), expected)
