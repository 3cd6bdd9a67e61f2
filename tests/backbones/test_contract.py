"""What every backbone promises, whatever its kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from engine import plugins
from engine.networks import Encoder, initialize_
from engine.normalization import BatchNorm1d, BatchNorm2d
from engine.protocols import Source
from engine.randomness import stream
from engine.spec import BackboneSpec

KINDS = plugins.kinds("backbones")
SIZE, BATCH = 32, 4
SOURCE = Source((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), 10)
# The smallest settings of each kind that take images of 32 pixels and let every one of their pixels count.
SMALL: dict[str, dict[str, Any]] = {
    "densenet121": {"width": 4, "stages": [1, 2, 1]},
    "mobilenet_v2": {"width": 0.1},
    "resnet18": {"width": 4, "stages": [1, 1]},
    "resnet34": {"width": 4, "stages": [1, 2]},
    "resnet50": {"width": 4, "stages": [1, 1]},
    "vgg19": {"width": 4},
    "vit_tiny": {"image_size": 32, "patch": 8, "width": 8, "depth": 2, "heads": 2},
}


def spec_of(kind: str) -> BackboneSpec:
    return TypeAdapter(plugins.spec_of("backbones")).validate_python({"kind": kind, **SMALL[kind]}, strict=False)


def build(kind: str, seed: int = 0) -> Encoder:
    return initialize_(plugins.build("backbones", spec_of(kind), source=SOURCE), stream(seed, "init"))


def draw(size: int = SIZE) -> Tensor:
    return torch.rand(BATCH, 3, size, size, generator=stream(0, "images"))


def test_every_kind_is_in_the_table() -> None:
    assert set(SMALL) == set(KINDS)
    assert len(KINDS) >= 7


@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    @pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
    def test_images_become_finite_features(self, kind: str, training: bool) -> None:
        encoder = build(kind).train(training)
        features = encoder(draw())
        assert features.shape == (BATCH, encoder.features)
        assert features.isfinite().all()
        assert features.std(dim=0).max() > 1e-3

    def test_the_smallest_size_is_taken_and_one_pixel_less_refused(self, kind: str) -> None:
        spec, encoder = spec_of(kind), build(kind).train()
        smallest = spec.smallest_size
        assert spec.size_fault(smallest) is None
        assert encoder(draw(smallest)[:2]).shape == (2, encoder.features)
        fault = spec.size_fault(smallest - 1)
        assert fault is not None
        assert all(word in fault for word in (str(smallest - 1), kind, str(smallest)))

    def test_in_evaluation_an_images_features_do_not_depend_on_its_batch(self, kind: str) -> None:
        encoder = build(kind).eval()
        with torch.no_grad():
            torch.testing.assert_close(encoder(draw())[:1], encoder(draw()[:1]), atol=1e-5, rtol=1e-4)

    def test_the_stream_alone_gives_the_weights(self, kind: str) -> None:
        one, two, other = (build(kind, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_no_weight_keeps_what_it_held_before(self, kind: str) -> None:
        encoder = plugins.build("backbones", spec_of(kind), source=SOURCE)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.fill_(torch.nan)
        initialize_(encoder, stream(0, "init"))
        expected = build(kind).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())

    @pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
    def test_the_gradient_reaches_every_image_and_every_weight(self, kind: str, training: bool) -> None:
        encoder, images = build(kind).train(training), draw().requires_grad_()
        encoder(images).square().sum().backward()
        assert images.grad is not None
        assert images.grad.isfinite().all()
        assert images.grad.flatten(1).any(dim=1).all()
        assert all(parameter.grad is not None for parameter in encoder.parameters())

    def test_every_batch_norm_is_ours(self, kind: str) -> None:
        norms = [module for module in build(kind).modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert all(type(norm) in (BatchNorm1d, BatchNorm2d) for norm in norms)

    @pytest.mark.parametrize(
        ("training", "dtype"), [(False, torch.float32), (True, torch.float64)], ids=["evaluation", "training"]
    )
    def test_the_memory_format_does_not_matter(self, kind: str, training: bool, dtype: torch.dtype) -> None:
        # In training, batch norms over a few values make much of single precision's rounding.
        results = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            encoder = build(kind).train(training).to(dtype=dtype, memory_format=memory_format)
            images = draw().to(dtype=dtype, memory_format=memory_format).requires_grad_()
            features = encoder(images)
            features.square().sum().backward()
            weights = torch.cat([weight.grad.flatten() for weight in encoder.parameters()])
            results.append((features.detach(), images.grad, weights))
        for found, expected in zip(*results, strict=True):
            assert (found - expected).norm() < 1e-3 * expected.norm()

    def test_no_strided_1x1_convolution_is_so_narrow_that_onednn_corrupts_the_heap(self, kind: str) -> None:
        # oneDNN issue 6035: below 8 input channels with AVX2, below 16 with AVX-512, in the channels-last layout.
        # The crash itself depends on the machine and would end the test run, so the modules are looked at instead.
        convolutions = [module for module in build(kind).modules() if isinstance(module, nn.Conv2d)]
        assert convolutions
        strided = [m.in_channels for m in convolutions if m.kernel_size == (1, 1) and m.stride != (1, 1)]
        assert all(channels >= 16 for channels in strided)

    def test_the_state_survives_a_round_trip(self, kind: str) -> None:
        trained, fresh = build(kind, 0).train(), build(kind, 1)
        trained(draw())
        fresh.load_state_dict(trained.state_dict())
        assert torch.equal(trained.eval()(draw()), fresh.eval()(draw()))

    def test_a_copy_is_the_same_and_its_own(self, kind: str) -> None:
        encoder = build(kind).eval()
        duplicate = copy.deepcopy(encoder)
        before = encoder(draw())
        assert torch.equal(duplicate(draw()), before)
        with torch.no_grad():
            for parameter in duplicate.parameters():
                parameter.add_(1)
        assert torch.equal(encoder(draw()), before)
