"""Pieces of networks: initial weights, the encoder's normalisation, heads, views in one batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.networks import Encoder, initialize_, join_views, part_views, relu_head
from engine.normalization import BatchNorm2d
from engine.randomness import stream


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


@pytest.mark.parametrize("groups", [4, 64])
def test_the_fan_out_of_a_convolution_in_groups_is_that_of_one_group(groups: int) -> None:
    convolution = initialize_(nn.Conv2d(64, 512, 3, groups=groups), stream(0, "init"))
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (512 / groups * 9)), rel=0.04)


def test_linear_layers_start_uniform_within_the_root_of_the_fan_in() -> None:
    linear = initialize_(nn.Linear(100, 200), stream(0, "init"))
    for parameter in (linear.weight, linear.bias):
        assert parameter.abs().max() <= 0.1
        assert parameter.abs().max() > 0.098
        assert parameter.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(("norm", "own"), [(BatchNorm2d, ("running_mean", "running_var")), (nn.LayerNorm, ())])
def test_norms_start_as_the_identity_of_normalised_features(norm: type[nn.Module], own: tuple[str, ...]) -> None:
    layer = norm(3)
    state = layer.state_dict()
    for value in state.values():
        value.fill_(7)
    initialize_(nn.Sequential(layer), stream(0, "init"))
    expected = {"weight": 1.0, "bias": 0.0, **dict(zip(own, (0.0, 1.0), strict=False))}
    for name, value in expected.items():
        assert torch.equal(state[name], torch.full((3,), value)), name


def test_attention_starts_as_torchs_own_from_the_stream() -> None:
    attention = initialize_(nn.MultiheadAttention(64, 2), stream(0, "init"))
    bound = math.sqrt(6 / (64 + 3 * 64))
    assert attention.in_proj_weight.abs().max() <= bound
    assert attention.in_proj_weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not attention.in_proj_bias.any()
    assert attention.out_proj.weight.abs().max() <= 1 / 8


def test_attention_whose_projections_are_apart_has_no_rule() -> None:
    with pytest.raises(TypeError, match="'', a MultiheadAttention"):
        initialize_(nn.MultiheadAttention(8, 2, kdim=4, vdim=4), stream(0, "init"))


def test_embeddings_start_normal_with_a_deviation_of_a_fiftieth() -> None:
    module = nn.Module()
    module.class_token = nn.Parameter(torch.zeros(1, 1, 2000))
    module.pos_embedding = nn.Parameter(torch.zeros(1, 9, 2000))
    initialize_(module, stream(0, "init"))
    for embedding in (module.class_token, module.pos_embedding):
        assert embedding.std().item() == pytest.approx(0.02, rel=0.06)


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


@given(
    count=st.integers(1, 3), groups=st.integers(1, 4), rows=st.integers(1, 3), shape=st.sampled_from([(), (2,), (2, 3)])
)
def test_parting_undoes_joining(count: int, groups: int, rows: int, shape: tuple[int, ...]) -> None:
    views = [torch.randn(groups * rows, *shape, generator=stream(view, "views")) for view in range(count)]
    joined = join_views(views, groups)
    assert joined.shape == (count * groups * rows, *shape)
    parts = part_views(joined, count, groups)
    assert len(parts) == count
    assert all(torch.equal(part, view) for part, view in zip(parts, views, strict=True))


@given(count=st.integers(1, 3), groups=st.integers(1, 4), rows=st.integers(1, 3))
def test_each_group_has_all_views_of_its_images(count: int, groups: int, rows: int) -> None:
    # A view's row is its image's number; the views differ in the second column.
    images = torch.arange(groups * rows)
    views = [torch.stack([images, torch.full_like(images, view)], dim=1) for view in range(count)]
    for group, part in enumerate(join_views(views, groups).chunk(groups)):
        own = range(group * rows, (group + 1) * rows)
        assert sorted(part.tolist()) == sorted([image, view] for image in own for view in range(count))
