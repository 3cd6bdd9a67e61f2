"""Alignment, uniformity and view distances against closed forms and loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import hyp0f1

from engine.analysis import alignment, distance_histogram, uniformity


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(row: torch.Tensor) -> list[float]:
    length = math.sqrt(sum(value * value for value in row.tolist()))
    return [value / length for value in row.tolist()]


def squared_distance(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def test_alignment_is_the_mean_over_positives_by_loops() -> None:
    za, zb = draw(7, 5), draw(7, 5, seed=1)
    pairs = [squared_distance(unit(a), unit(b)) for a, b in zip(za, zb, strict=True)]
    assert alignment(za, zb).item() == pytest.approx(sum(pairs) / 7, rel=1e-5)


def test_alignment_is_zero_where_views_agree_and_four_where_they_are_opposite() -> None:
    z = draw(6, 4)
    assert alignment(z, 3 * z).item() == pytest.approx(0, abs=1e-12)
    assert alignment(z, -z).item() == pytest.approx(4, rel=1e-6)
    frame = torch.eye(4)
    assert alignment(frame, frame.roll(1, dims=0)).item() == pytest.approx(2, rel=1e-6)


def test_uniformity_is_over_all_pairs_by_loops() -> None:
    z = draw(6, 3)
    rows = [unit(row) for row in z]
    potentials = [math.exp(-2 * squared_distance(rows[i], rows[j])) for i in range(6) for j in range(i)]
    assert uniformity(z).item() == pytest.approx(math.log(sum(potentials) / 15), rel=1e-5)


def test_uniformity_of_known_arrangements() -> None:
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.eye(6)).item() == pytest.approx(-4, rel=1e-6)
    opposite = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    assert uniformity(opposite).item() == pytest.approx(-8, rel=1e-6)
    # n directions whose sum is zero, all equally far apart: squared distance 2n / (n - 1).
    simplex = torch.eye(5) - 1 / 5
    assert uniformity(simplex).item() == pytest.approx(-2 * 2 * 5 / 4, rel=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3, 16, 128])
def test_points_spread_evenly_over_the_sphere_have_the_value_of_the_integral(dimensions: int) -> None:
    # The mean of exp(4 t - 4) over the sphere, t the cosine: exp(-4) times a Bessel function, here as 0F1.
    expected = math.log(hyp0f1(dimensions / 2, 4)) - 4
    assert uniformity(draw(3000, dimensions)).item() == pytest.approx(expected, abs=0.02)


def test_half_precision_and_autocast_change_nothing_but_the_inputs_rounding() -> None:
    za, zb = draw(16, 8), draw(16, 8, seed=1)
    half = [z.bfloat16() for z in (za, zb)]
    expected = alignment(*(z.float() for z in half)), uniformity(half[0].float())
    with torch.autocast("cpu", torch.bfloat16):
        found = alignment(*half), uniformity(half[0])
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert found[0].dtype == torch.float32


def test_distances_fall_into_the_bins_by_loops() -> None:
    za, zb = draw(200, 3), draw(200, 3, seed=1)
    expected = [0] * 8
    for a, b in zip(za, zb, strict=True):
        cosine = sum(x * y for x, y in zip(unit(a), unit(b), strict=True))
        expected[int((1 - cosine) / 0.25)] += 1
    assert distance_histogram(za, zb, bins=8).tolist() == expected


def test_known_distances_fall_into_their_bins() -> None:
    z = draw(50, 6)
    assert distance_histogram(z, 2 * z, bins=40).tolist() == [50] + [0] * 39
    assert distance_histogram(z, -z, bins=40).tolist() == [0] * 39 + [50]
    axes = torch.eye(4)
    assert distance_histogram(axes, axes.roll(1, dims=0), bins=4).tolist() == [0, 0, 4, 0]


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 50), st.integers(0, 999))
def test_every_pair_is_counted_once(batch: int, dimensions: int, bins: int, seed: int) -> None:
    counts = distance_histogram(draw(batch, dimensions, seed=seed), draw(batch, dimensions, seed=seed + 1), bins=bins)
    assert counts.shape == (bins,)
    assert counts.dtype == torch.int64
    assert counts.sum() == batch


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 999))
def test_lengths_and_turns_change_nothing(batch: int, dimensions: int, seed: int) -> None:
    za, zb = draw(batch, dimensions, seed=seed), draw(batch, dimensions, seed=seed + 1)
    turn = torch.linalg.qr(draw(dimensions, dimensions, seed=seed + 2))[0]
    scale = draw(batch, 1, seed=seed + 3).exp()
    assert alignment(scale * za @ turn, zb @ turn).item() == pytest.approx(alignment(za, zb).item(), abs=1e-4)
    assert uniformity(scale * za @ turn).item() == pytest.approx(uniformity(za).item(), abs=1e-4)
    assert -8 - 1e-5 <= uniformity(za).item() <= 1e-6
    assert 0 <= alignment(za, zb).item() <= 4 + 1e-5
