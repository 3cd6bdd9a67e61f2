"""Pieces of networks: batch norm against torch's own, initial weights, the encoder's normalisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from engine.networks import Encoder, initialize_, relu_head
from engine.normalization import BatchNorm2d
from engine.randomness import stream


def batch_norms() -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Return ours and torch's with the same weights and running statistics, none of them trivial."""
    generator = stream(0, "batch norm")
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    state = {
        "weight": torch.rand(3, generator=generator) + 0.5,
        "bias": torch.randn(3, generator=generator),
        "running_mean": torch.randn(3, generator=generator),
        "running_var": torch.rand(3, generator=generator) + 0.1,
        "num_batches_tracked": torch.tensor(5),
    }
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    return ours, theirs


def run(norm: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Return the output and the gradients in the input, the weight and the bias."""
    x = x.clone().requires_grad_()
    out = norm(x)
    return [out.detach(), *torch.autograd.grad(out, (x, *norm.parameters()), upstream)]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_batch_norm_has_torchs_values_gradients_and_statistics(training: bool) -> None:
    ours, theirs = (norm.train(training) for norm in batch_norms())
    generator = stream(0, "images")
    x, upstream = (torch.randn(4, 3, 5, 6, generator=generator) for _ in range(2))
    for result, expected in zip(run(ours, x, upstream), run(theirs, x, upstream), strict=True):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=0, rtol=0)


def test_batch_norm_keeps_the_channels_last_layout_in_evaluation() -> None:
    # Convolutions in that layout would otherwise convert back at every layer.
    ours, _ = batch_norms()
    x = torch.randn(4, 3, 5, 6, generator=stream(0, "images")).to(memory_format=torch.channels_last)
    out, grad, *_ = run(ours.eval(), x, x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def some_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4, bias=False))


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_initial_weights_depend_on_the_stream_alone() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = initialize_(some_network(), stream(0, "init"))
        torch.manual_seed(2)
        same = initialize_(some_network(), stream(0, "init"))
        other = initialize_(some_network(), stream(1, "init"))
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))


def test_convolutions_start_kaiming_normal_in_the_fan_out() -> None:
    convolution = initialize_(nn.Conv2d(32, 128, 3), stream(0, "init"))
    # 36 864 draws: a standard deviation is known to 0.4 %; the fan-in rule would be twice as wide.
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert convolution.weight.mean().abs() < 1e-3
    assert not convolution.bias.any()
    within_one_sigma = (convolution.weight.abs() < convolution.weight.std()).float().mean().item()
    assert within_one_sigma == pytest.approx(0.6827, abs=0.01)  # a uniform would have 0.577


def test_linear_layers_start_uniform_within_the_root_of_the_fan_in() -> None:
    linear = initialize_(nn.Linear(100, 200), stream(0, "init"))
    for parameter in (linear.weight, linear.bias):
        assert parameter.abs().max() <= 0.1
        assert parameter.abs().max() > 0.098
        assert parameter.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)


def test_batch_norm_starts_as_the_identity_of_normalised_features() -> None:
    norm, _ = batch_norms()
    initialize_(nn.Sequential(norm), stream(0, "init"))
    expected = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, value in expected.items():
        assert torch.equal(norm.state_dict()[name], torch.full((3,), value)), name


def test_a_module_without_a_rule_is_refused_by_name() -> None:
    network = nn.ModuleDict({"encoder": nn.Conv2d(3, 4, 1), "gate": nn.PReLU()})
    with pytest.raises(TypeError, match="'gate', a PReLU"):
        initialize_(network, stream(0, "init"))


def test_the_encoder_normalises_its_images_itself() -> None:
    encoder = Encoder(nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), features=3)
    images = torch.tensor([[0.6, 0.7, 0.3], [0.1, 0.2, 1.0]])[:, :, None, None]
    expected = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.35]])
    torch.testing.assert_close(encoder(images), expected)


def test_the_encoders_normalisation_travels_with_its_weights() -> None:
    encoder = Encoder(nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), features=3)
    other = Encoder(nn.Flatten(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), features=3)
    other.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, 1, 1, generator=stream(0, "images"))
    assert torch.equal(other(images), encoder(images))


def test_the_head_is_two_linear_layers_around_a_relu() -> None:
    head = initialize_(relu_head(4, 6, 2), stream(0, "init"))
    x = torch.randn(5, 4, generator=stream(0, "features"))
    first, second = (module for module in head if isinstance(module, nn.Linear))
    hidden = (x @ first.weight.T + first.bias).clamp_min(0)
    torch.testing.assert_close(head(x), hidden @ second.weight.T + second.bias)
    assert (hidden.shape[1], head(x).shape[1]) == (6, 2)
