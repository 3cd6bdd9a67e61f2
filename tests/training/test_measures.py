"""Measuring a learner gives the right numbers and leaves no trace."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn

from engine import plugins
from engine.precision import Precision
from engine.protocols import DefenseContext, Source, Victim
from engine.randomness import stream
from engine.training.defending import Defended
from engine.training.measures import MOST_EPOCHS, Measures, evaluating, measured_epochs

FP32 = Precision("fp32", torch.device("cpu"))
SOURCE = Source((0.5,) * 3, (0.25,) * 3, 4)


def learner(kind: str = "simclr", **changes: Any) -> Victim:
    values = {
        "kind": kind,
        "backbone": {"kind": "resnet18", "width": 4, "stages": [1]},
        "views": {"size": 12},
        "batch_size": 8,
        **changes,
    }
    spec = TypeAdapter(plugins.spec_of("victims")).validate_python(values, strict=False)
    victim: Victim = plugins.build("victims", spec, source=SOURCE, generator=stream(0, "victim", "init"))
    victim.network.train()
    return victim


def pixels(seed: int = 0, count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 12, 12), generator=stream(seed, "images"), dtype=torch.uint8)


def measures(victim: Victim, *, epochs: int = 3, **images: Tensor) -> Measures:
    return Measures(victim, images or {"": pixels()}, epochs, FP32, seed=0)


@given(st.integers(1, 3000))
def test_measured_epochs_are_few_even_and_hold_the_first_and_the_last(epochs: int) -> None:
    found = sorted(measured_epochs(epochs))
    assert (found[0], found[-1]) == (1, epochs)
    assert len(found) == min(epochs, MOST_EPOCHS)
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def apart(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["simclr", "byol", "supervised"])
def test_measures_are_those_of_two_views_written_with_loops(kind: str) -> None:
    victim = learner(kind)
    found = measures(victim)(3)
    victim.network.eval()
    draws, rows = stream(0, "measure", "views"), []
    for view in victim.views if len(victim.views) > 1 else victim.views * 2:
        rows.append([unit(row) for row in victim.embed(view(draws, pixels() / 255)).tolist()])
    za, zb = rows
    assert za != zb
    assert found["alignment"] == pytest.approx(sum(map(apart, za, zb)) / 6, rel=1e-4)
    spreads = []
    for z in (za, zb):
        potentials = [math.exp(-2 * apart(z[i], z[j])) for i in range(6) for j in range(i)]
        spreads.append(math.log(sum(potentials) / 15))
    assert found["uniformity"] == pytest.approx(sum(spreads) / 2, rel=1e-4)


def test_sets_of_images_and_epochs_share_their_views() -> None:
    victim = learner()
    watched = measures(victim, **{"": pixels(), "clean_": pixels(), "other_": pixels(1)})
    found = watched(1)
    assert list(found) == [
        f"{prefix}{name}" for prefix in ("", "clean_", "other_") for name in ("alignment", "uniformity")
    ]
    assert found["alignment"] == found["clean_alignment"] != found["other_alignment"]
    assert watched(2) == found


def test_epochs_between_are_not_measured() -> None:
    watched = measures(learner(), epochs=100)
    assert [epoch for epoch in range(1, 101) if watched(epoch)] == sorted(measured_epochs(100))


@pytest.mark.parametrize("kind", plugins.kinds("victims"))
def test_measuring_changes_no_state_no_mode_and_no_random_stream(kind: str) -> None:
    victim = learner(kind)
    state = {name: value.clone() for name, value in victim.network.state_dict().items()}
    globally = torch.get_rng_state()
    before = dict(vars(victim)) if hasattr(victim, "__dict__") else {}
    measures(victim)(1)
    assert all(torch.equal(state[name], value) for name, value in victim.network.state_dict().items())
    assert all(module.training for module in victim.network.modules())
    assert all(weight.grad is None for weight in victim.network.parameters())
    assert torch.equal(globally, torch.get_rng_state())
    assert vars(victim) == before


def test_a_network_returns_to_its_mode_even_after_an_error() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2))
    for mode in (True, False):
        network.train(mode)
        with pytest.raises(KeyError), evaluating(network):
            assert not network[0].training
            raise KeyError
        assert network[0].training is mode


def test_a_learner_around_a_learner_embeds_as_that_one_does() -> None:
    inner = learner()
    inner.network.eval()
    context = DefenseContext(stream(0, "defense"), FP32, lambda which: nn.Identity())
    image = pixels() / 255
    assert torch.equal(Defended(inner, context).embed(image), inner.embed(image))
    assert measures(Defended(inner, context))(1) == measures(inner)(1)
