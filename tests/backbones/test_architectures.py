"""Each architecture against its published size, its published form in torchvision, and its feature maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from pydantic import TypeAdapter
from torch import Tensor, nn

from engine import plugins
from engine.networks import Encoder, initialize_
from engine.protocols import Source
from engine.randomness import stream
from engine.spec import BackboneSpec

# A mean of 0 and a deviation of 1: the encoder's own normalisation is then the identity.
PLAIN = Source(mean=(0.0,) * 3, std=(1.0,) * 3, num_classes=10)


def spec_of(settings: dict[str, Any]) -> BackboneSpec:
    return TypeAdapter(plugins.spec_of("backbones")).validate_python(settings, strict=False)


def build(kind: str, **settings: Any) -> Encoder:
    return plugins.build("backbones", spec_of({"kind": kind, **settings}), source=PLAIN)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_classifier(encoder: Encoder, classes: int) -> int:
    """Return the parameters of an encoder and a linear classifier: what the literature counts."""
    return count(encoder) + (encoder.features + 1) * classes


# kuangliu/pytorch-cifar has one shortcut of 1 x 1 convolution and batch norm at each change of channels without a
# stride, and an expansion of factor one in the first block; the paper, torchvision and we have neither.
SHORTCUTS = sum(old * new + 2 * new for old, new in ((32, 16), (16, 24), (64, 96), (160, 320)))
EXPANSION = 32 * 32 + 2 * 32

CIFAR = {
    # kind: (parameters with a classifier of ten classes, the millions that the literature states, more of theirs)
    "resnet18": (11_173_962, 11.17, 0),
    "resnet34": (21_282_122, 21.28, 0),
    "resnet50": (23_520_842, 23.52, 0),
    "vgg19": (20_040_522, 20.04, 0),
    "densenet121": (6_956_298, 6.96, 0),
    "mobilenet_v2": (2_236_682, 2.30, SHORTCUTS + EXPANSION),
}


@pytest.mark.parametrize("kind", CIFAR)
def test_on_cifar_it_has_the_parameters_of_the_literature(kind: str) -> None:
    exact, millions, theirs = CIFAR[kind]
    found = with_classifier(build(kind), 10)
    assert found == exact
    assert round((found + theirs) / 1e6, 2) == millions


def test_what_pytorch_cifar_adds_to_mobilenet_is_what_its_card_says() -> None:
    assert SHORTCUTS + EXPANSION == 60_240
    assert "60,240" in (plugins.module_of("backbones", "mobilenet_v2").__doc__ or "")


def vgg19_classifier(encoder: Encoder) -> int:
    """Return the parameters of VGG's three linear layers on 224 pixels, of which we keep none."""
    return sum((rows + 1) * columns for rows, columns in ((encoder.features * 7 * 7, 4096), (4096, 4096), (4096, 1000)))


def test_on_imagenet_it_has_the_parameters_of_the_literature() -> None:
    # With a classifier of a thousand classes. torchvision states them with its weights; the transformer: DeiT-Ti,
    # 5.72 million (Touvron et al. 2021, table 1: "5M"; the official code's model has 5,717,416).
    weights = torchvision.models.get_model_weights
    names = {name: name for name in ("resnet18", "resnet34", "resnet50", "densenet121", "mobilenet_v2")}
    for kind, name in names.items():
        stated = weights(name).DEFAULT.meta["num_params"]
        assert with_classifier(build(kind, stem="imagenet"), 1000) == stated, kind
    vgg = build("vgg19")
    assert count(vgg) + vgg19_classifier(vgg) == weights("vgg19_bn").DEFAULT.meta["num_params"]
    assert with_classifier(build("vit_tiny", image_size=224, patch=16), 1000) == 5_717_416


def theirs(kind: str) -> nn.Module:
    """Return torchvision's network for 224 pixels, without its classifier."""
    if kind == "vit_tiny":  # torchvision has the larger ones alone
        network = torchvision.models.VisionTransformer(64, 16, 12, 3, 192, 768)
        network.heads = nn.Identity()
        return network
    if kind == "vgg19":  # a whole one would draw 123 million weights of its classifier
        layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"], batch_norm=True)
        return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = torchvision.models.get_model(kind, weights=None)
    setattr(network, "fc" if hasattr(network, "fc") else "classifier", nn.Identity())
    return network


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("resnet34", {"stem": "imagenet"}),
        ("resnet50", {"stem": "imagenet"}),
        ("vgg19", {}),
        ("densenet121", {"stem": "imagenet"}),
        ("mobilenet_v2", {"stem": "imagenet"}),
        ("vit_tiny", {"image_size": 64, "patch": 16}),
    ],
)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_it_computes_what_torchvisions_does(kind: str, settings: dict[str, Any], training: bool) -> None:
    ours, other = initialize_(build(kind, **settings), stream(0, "weights")), theirs(kind)
    # Both hold the same tensors in the same order.
    other.load_state_dict(dict(zip(other.state_dict(), ours.backbone.state_dict().values(), strict=True)))
    images = torch.rand(4, 3, 64, 64, generator=stream(0, "images"))
    ours.train(training)
    other.train(training)
    with torch.no_grad():
        # Deep batch norms in training amplify rounding: of the features' size, not of each one's.
        expected = other(images)
        error = (ours(images) - expected).norm() / expected.norm()
    assert error < (1e-3 if training else 1e-4)


def last_map(encoder: Encoder, size: int) -> Tensor:
    """Return the feature map that is averaged."""
    *layers, _pool, _flatten = encoder.backbone
    return nn.Sequential(*layers)(torch.rand(2, 3, size, size, generator=stream(0, "images")))


CONVOLUTIONAL: list[dict[str, Any]] = [
    {"kind": "resnet34", "width": 2, "stages": [1, 1, 1]},
    {"kind": "resnet34", "width": 2, "stages": [1, 1], "stem": "imagenet"},
    {"kind": "resnet50", "width": 2, "stages": [1, 1, 1], "stem": "cifar_stride2"},
    {"kind": "resnet50", "width": 2, "stages": [1, 1, 1, 1], "stem": "imagenet"},
    {"kind": "vgg19", "width": 2},
    {"kind": "densenet121", "width": 2, "stages": [1, 2, 1]},
    {"kind": "densenet121", "width": 2, "stages": [1, 1, 1, 1], "stem": "imagenet"},
    {"kind": "mobilenet_v2", "width": 0.1},
    {"kind": "mobilenet_v2", "width": 0.1, "stem": "imagenet"},
]


@pytest.mark.parametrize("settings", CONVOLUTIONAL, ids=lambda settings: "-".join(map(str, settings.values())))
def test_the_smallest_size_is_what_a_pixel_of_the_last_map_covers(settings: dict[str, Any]) -> None:
    encoder, smallest = build(**settings), spec_of(settings).smallest_size
    for pixels in (1, 2, 3):
        assert last_map(encoder, pixels * smallest).shape == (2, encoder.features, pixels, pixels)


@pytest.mark.parametrize("settings", [{"kind": "vgg19", "width": 2}, {"kind": "densenet121", "width": 2}])
def test_pools_that_halve_leave_nothing_of_a_smaller_image(settings: dict[str, Any]) -> None:
    encoder, smallest = build(**settings), spec_of(settings).smallest_size
    with pytest.raises(RuntimeError, match="Output size is too small"):
        encoder(torch.rand(2, 3, smallest - 1, smallest - 1))


@pytest.mark.parametrize("factor", [1, 2])
def test_width_is_the_width_that_the_literature_speaks_of(factor: int) -> None:
    # ResNet and VGG: channels of the first stage; DenseNet: growth rate; MobileNet: multiplier; ViT: dimensions.
    def first_and_last(kind: str, width: float, **settings: Any) -> tuple[int, int]:
        encoder = build(kind, width=width, **settings)
        convolution = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
        return convolution.out_channels, encoder.features

    assert first_and_last("resnet34", 4 * factor) == (4 * factor, 32 * factor)
    assert first_and_last("resnet50", 4 * factor) == (4 * factor, 128 * factor)
    assert first_and_last("vgg19", 4 * factor) == (4 * factor, 32 * factor)
    assert first_and_last("densenet121", 2 * factor) == (4 * factor, 64 * factor)
    assert first_and_last("mobilenet_v2", 1.0 * factor) == (32 * factor, 1280 * factor)
    assert first_and_last("vit_tiny", 12 * factor) == (12 * factor, 12 * factor)
