"""Batch norm against torch's own: whole batches, groups of them, several sets, the joint batch of two processes."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing, nn

from engine.normalization import BatchNorm1d, BatchNorm2d, BatchNormSets, group_batch_norm_, own_batch_norm_
from engine.optimization import trained
from engine.randomness import stream

OURS = {1: BatchNorm1d, 2: BatchNorm2d}
THEIRS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
SHAPE: dict[int, tuple[int, ...]] = {1: (), 2: (5, 6)}


def batch_norms(channels: int = 3, dimensions: int = 2) -> tuple[Any, nn.Module]:
    """Return ours and torch's with the same weights and running statistics, none of them trivial."""
    generator = stream(0, "batch norm")
    ours, theirs = OURS[dimensions](channels), THEIRS[dimensions](channels)
    state = {
        "weight": torch.rand(channels, generator=generator) + 0.5,
        "bias": torch.randn(channels, generator=generator),
        "running_mean": torch.randn(channels, generator=generator),
        "running_var": torch.rand(channels, generator=generator) + 0.1,
        "num_batches_tracked": torch.tensor(5),
    }
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    return ours, theirs


def draw(rows: int, channels: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return a batch whose rows differ in level and spread, and a gradient that arrives from above."""
    generator = stream(0, "images")
    x, upstream = (torch.randn(rows, channels, *SHAPE[dimensions], generator=generator) for _ in range(2))
    level = torch.arange(rows).float().view(-1, *[1] * (x.dim() - 1))
    return x * (1 + level) + level, upstream


def run(norm: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """Return the output and the gradients in the input, the weight and the bias."""
    x = x.clone().requires_grad_()
    out = norm(x)
    return [out.detach(), *torch.autograd.grad(out, (x, *norm.parameters()), upstream)]


@pytest.mark.parametrize("dimensions", OURS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_batch_norm_has_torchs_values_gradients_and_statistics(dimensions: int, training: bool) -> None:
    ours, theirs = (norm.train(training) for norm in batch_norms(dimensions=dimensions))
    x, upstream = draw(4, 3, dimensions)
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


@settings(deadline=None)
@given(dimensions=st.sampled_from([1, 2]), groups=st.integers(1, 4), rows=st.integers(2, 4), channels=st.integers(1, 3))
def test_a_group_is_normalised_as_if_it_were_a_batch_of_its_own(
    dimensions: int, groups: int, rows: int, channels: int
) -> None:
    ours, _ = batch_norms(channels, dimensions)
    x, upstream = draw(groups * rows, channels, dimensions)
    found = run(group_batch_norm_(ours, groups), x, upstream)
    alone, states = [], []
    for part, above in zip(x.chunk(groups), upstream.chunk(groups), strict=True):
        _, each = batch_norms(channels, dimensions)
        alone.append(run(each, part, above))
        states.append(each.state_dict())
    outs, inputs, weights, biases = zip(*alone, strict=True)
    expected = [torch.cat(outs), torch.cat(inputs), sum(weights), sum(biases)]
    for result, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-4, rtol=1e-4)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([state[name] for state in states]).mean(dim=0)
        torch.testing.assert_close(ours.state_dict()[name], mean, atol=1e-4, rtol=1e-5)
    assert ours.num_batches_tracked == 6  # one batch, however many groups


@given(groups=st.integers(2, 5), rows=st.integers(1, 19))
def test_a_batch_that_does_not_fall_into_equal_groups_is_refused(groups: int, rows: int) -> None:
    norm = group_batch_norm_(BatchNorm1d(2), groups)
    if rows % groups:
        with pytest.raises(ValueError, match=f"batch of {rows} .* {groups} equal"):
            norm(torch.zeros(rows, 2))
        assert not norm.num_batches_tracked


def test_groups_do_not_matter_in_evaluation() -> None:
    ours, theirs = batch_norms()
    x, upstream = draw(5, 3, 2)
    found, expected = run(group_batch_norm_(ours, 2).eval(), x, upstream), run(theirs.eval(), x, upstream)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_grouping_reaches_every_layer_and_refuses_torchs_own() -> None:
    network = nn.Sequential(BatchNorm2d(2), nn.Sequential(BatchNorm1d(2)))
    group_batch_norm_(network, 4)
    assert [module.groups for module in network.modules() if hasattr(module, "groups")] == [4, 4]
    network[1].append(nn.BatchNorm1d(2))
    with pytest.raises(TypeError, match=r"'1\.1' is a BatchNorm1d of torch"):
        group_batch_norm_(network, 2)


def test_our_batch_norm_takes_the_place_of_torchs_with_its_settings() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.25, momentum=0.5))
    network = own_batch_norm_(nn.Sequential(inner, nn.BatchNorm2d(4), BatchNorm2d(4)))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [type(norm) for norm in norms] == [BatchNorm2d] * 3
    assert [(norm.num_features, norm.eps, norm.momentum) for norm in norms] == [(4, 0.25, 0.5), *[(4, 1e-5, 0.1)] * 2]
    assert network[0] is inner


def two_layers(dimensions: int, groups: int) -> nn.Module:
    """Return a network through whose second batch norm the gradient reaches the first."""
    first, second = (batch_norms(3, dimensions)[0] for _ in range(2))
    return group_batch_norm_(nn.Sequential(first, nn.Tanh(), second), groups)


NAMES = ("left", "middle", "right")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def with_sets(own: str = "middle", groups: int = 1) -> tuple[nn.Module, BatchNormSets, nn.ModuleDict]:
    """Return a network with two batch norms, its sets, of which no two are alike, and the tree of both."""
    network = nn.Sequential(nn.Linear(3, 4), BatchNorm1d(4), nn.Sequential(nn.Tanh(), BatchNorm1d(4)), nn.Linear(4, 2))
    sets = BatchNormSets(group_batch_norm_(network, groups), NAMES, own=own)
    tree = nn.ModuleDict({"network": network, "sets": sets})
    generator = stream(0, "weights")
    for weight in tree.parameters():
        weight.data = torch.randn(weight.shape, generator=generator)
    return network, sets, tree


def state_of(network: nn.Module, sets: BatchNormSets, name: str) -> dict[str, Tensor]:
    with sets.using(name):
        return copy.deepcopy(network.state_dict())


def test_sets_begin_as_copies_of_the_networks_own() -> None:
    network = two_layers(1, groups=2)
    sets = BatchNormSets(network, NAMES, own="left")
    x, _ = draw(4, 3, 1)
    outs = []
    for name in NAMES:
        with sets.using(name):
            outs.append(network(x))
            assert [layer.groups for layer in network if isinstance(layer, BatchNorm1d)] == [2, 2]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("own", NAMES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_network_under_a_set_is_a_plain_network_with_its_weights(own: str, groups: int, training: bool) -> None:
    network, sets, tree = with_sets(own, groups)
    tree.train(training)
    x, outs = torch.randn(6, 3, generator=stream(0, "x")), []
    for name in NAMES:
        plain, _, _ = with_sets(groups=groups)
        plain.load_state_dict(state_of(network, sets, name))
        plain.train(training)
        with sets.using(name):
            outs.append(network(x))
        assert torch.equal(outs[-1], plain(x))
        assert all(torch.equal(state_of(network, sets, name)[key], value) for key, value in plain.state_dict().items())
    assert not torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("used", NAMES)
def test_a_pass_moves_and_teaches_its_own_set_alone(used: str) -> None:
    network, sets, _ = with_sets()
    before = {name: state_of(network, sets, name) for name in NAMES}
    with sets.using(used):
        network(torch.randn(6, 3, generator=stream(0, "x"))).sum().backward()
    for name in NAMES:
        after = state_of(network, sets, name)
        moved = {key for key, value in after.items() if not torch.equal(value, before[name][key])}
        assert moved == ({f"{layer}.{key}" for layer in ("1", "2.1") for key in STATISTICS} if name == used else set())
        with sets.using(name):
            gradients = [layer.weight.grad for layer in (network[1], network[2][1])]
        assert all((gradient is None) == (name != used) for gradient in gradients)


def test_a_network_carries_its_own_set_again_after_every_use() -> None:
    network, sets, _ = with_sets()
    layers, keys = (network[1], network[2][1]), list(network.state_dict())
    with sets.using("left"):
        assert network[1] is not layers[0]
        assert list(network.state_dict()) == keys
    assert (network[1], network[2][1]) == layers
    with pytest.raises(ValueError, match="more than 1 value"), sets.using("right"):
        network(torch.zeros(1, 3))
    assert (network[1], network[2][1]) == layers
    with pytest.raises(KeyError), sets.using("centre"):
        pass
    assert list(network.state_dict()) == keys


def test_the_tree_of_a_network_and_its_sets_holds_everything_once() -> None:
    network, sets, tree = with_sets()
    # Two linear layers; two batch norms in three sets.
    assert len(trained(tree)) == 2 * 2 + 3 * 2 * 2
    fresh_network, fresh_sets, fresh = with_sets()
    with sets.using("right"):
        network(torch.randn(6, 3, generator=stream(0, "x")))
    torch.optim.SGD(tree.parameters(), lr=0.1, weight_decay=1.0)  # refuses a parameter that it is given twice
    for weight in tree.parameters():
        weight.data.mul_(0.5)
    fresh.load_state_dict(tree.state_dict())
    for name in NAMES:
        ours, theirs = state_of(network, sets, name), state_of(fresh_network, fresh_sets, name)
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    fresh.double().eval()
    for name in NAMES:
        with fresh_sets.using(name):
            assert fresh_network(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float64


ROWS = (5, 3)  # of each of two processes


def normalise(rows: slice, dimensions: int, groups: int = 1) -> dict[str, Any]:
    network = two_layers(dimensions, groups)
    x, upstream = (tensor[rows] for tensor in draw(sum(ROWS), 3, dimensions))
    out, grad, *parameters = run(network, x, upstream)
    return {"out": out, "grad": grad, "parameters": parameters, "state": network.state_dict()}


def take_part(rank: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None)
    cases = {dimensions: normalise(rows, dimensions) for dimensions in OURS}
    groups = normalise(slice(4 * rank, 4 * rank + 4), 2, groups=2)
    torch.save({"cases": cases, "groups": groups}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_normalise_as_one_with_the_joint_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(take_part, (tmp_path,), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for dimensions in OURS:
        one, two = (each["cases"][dimensions] for each in found)
        joint = normalise(slice(None), dimensions)
        for name in ("out", "grad"):
            torch.testing.assert_close(torch.cat([one[name], two[name]]), joint[name], atol=1e-5, rtol=1e-4)
        summed = [sum(pair) for pair in zip(one["parameters"], two["parameters"], strict=True)]
        torch.testing.assert_close(summed, joint["parameters"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one["state"], joint["state"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one["state"], two["state"], atol=0, rtol=0)
    # Of several groups, each process has its own; the statistics follow all of them.
    alone, (one, two) = normalise(slice(None), 2, groups=2), (each["groups"] for each in found)
    for name in ("out", "grad"):
        torch.testing.assert_close(torch.cat([one[name], two[name]]), alone[name], atol=1e-6, rtol=1e-6)
    for each in (one, two):
        torch.testing.assert_close(each["state"], alone["state"], atol=1e-6, rtol=1e-6)
