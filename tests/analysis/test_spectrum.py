"""The spectrum against Parseval's theorem, single waves, and a sum written with loops."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis import radial_spectrum


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frequencies(side: int) -> list[int]:
    return [index if index < (side + 1) // 2 else index - side for index in range(side)]


def counts_by_loops(height: int, width: int) -> list[int]:
    radii = [round(math.hypot(v, u)) for v in frequencies(height) for u in frequencies(width)]
    return [radii.count(radius) for radius in range(max(radii) + 1)]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_the_power_of_all_frequencies_is_that_of_all_pixels(height: int, width: int, seed: int) -> None:
    x = noise(3, 2, height, width, seed=seed)
    power, counts = radial_spectrum(x).tolist(), counts_by_loops(height, width)
    total = sum(p * n for p, n in zip(power, counts, strict=True) if n)
    assert total / (height * width) == pytest.approx(x.double().square().mean().item(), rel=1e-9)


def test_every_ring_is_the_mean_of_its_frequencies_by_loops() -> None:
    height, width = 4, 5
    x = noise(2, 3, height, width).double()
    rings: dict[int, list[float]] = {}
    for image in x.flatten(0, 1).tolist():
        for v in frequencies(height):
            for u in frequencies(width):
                terms = (
                    image[row][column] * cmath.exp(-2j * cmath.pi * (v * row / height + u * column / width))
                    for row in range(height)
                    for column in range(width)
                )
                rings.setdefault(round(math.hypot(v, u)), []).append(abs(sum(terms)) ** 2 / (height * width))
    expected = [sum(values) / len(values) for _, values in sorted(rings.items())]
    assert radial_spectrum(x).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("v", "u", "ring"), [(0, 3, 3), (5, 0, 5), (3, 4, 5), (2, 2, 3), (-6, 7, 9)])
def test_a_wave_lands_in_its_ring(v: int, u: int, ring: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    wave = 3 * torch.cos(2 * math.pi * (v * rows + u * columns) / 16 + 0.4)
    power = radial_spectrum(wave.expand(2, 3, 16, 16))
    assert power[ring].item() * counts_by_loops(16, 16)[ring] / 256 == pytest.approx(9 / 2, rel=1e-5)
    assert power.sum().item() == pytest.approx(power[ring].item(), rel=1e-5)


def test_a_flat_image_has_its_square_at_zero_alone() -> None:
    power = radial_spectrum(torch.full((1, 3, 8, 8), 5.0))
    assert power[0].item() == pytest.approx(64 * 25)
    assert power[1:].abs().max().item() < 1e-12


def test_white_noise_is_flat_at_its_variance() -> None:
    power = radial_spectrum(2 * noise(400, 3, 16, 16))
    assert power.tolist() == pytest.approx([4.0] * len(power), rel=0.12)


def test_cutting_into_pieces_changes_nothing() -> None:
    x = noise(100, 1, 6, 6)
    expected = torch.stack([radial_spectrum(image[None]) for image in x]).mean(dim=0)
    assert torch.allclose(radial_spectrum(x), expected, rtol=1e-12)
