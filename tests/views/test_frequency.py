"""The high-pass filter against numpy's transform, one coefficient at a time, and on waves of one frequency."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.randomness import stream
from engine.views.frequency import high_pass


def noise(size: int, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, size, size, generator=stream(seed, "images"), dtype=torch.float64)


def by_numpy(image: Tensor, radius: float) -> Tensor:
    """Filter one channel: centre its spectrum, and set what lies closer to the centre than the radius to zero."""
    spectrum = np.fft.fftshift(np.fft.fft2(image.numpy()))
    centre = len(spectrum) // 2
    for row in range(len(spectrum)):
        for column in range(len(spectrum)):
            if math.hypot(row - centre, column - centre) < radius - 1e-9:
                spectrum[row, column] = 0
    filtered = np.fft.ifft2(np.fft.ifftshift(spectrum))
    assert np.abs(filtered.imag).max() < 1e-12
    return torch.from_numpy(filtered.real.copy())


@settings(deadline=None)  # the first transform of a process takes its time
@given(size=st.integers(4, 13), radius=st.sampled_from([0.5, 1.0, math.sqrt(2), 2.0, 2.5]), seed=st.integers(0, 99))
def test_it_is_numpys_transform_without_the_coefficients_near_the_centre(size: int, radius: float, seed: int) -> None:
    images = noise(size, seed)
    filtered = high_pass(images, radius_rel=radius / size)
    for row in range(2):
        for channel in range(3):
            expected = by_numpy(images[row, channel], radius)
            torch.testing.assert_close(filtered[row, channel], expected, atol=1e-12, rtol=0)


def test_a_quarter_is_the_official_radius_for_cifar() -> None:
    images = noise(32).float()
    filtered = high_pass(images, radius_rel=0.25)
    assert filtered.dtype == torch.float32
    torch.testing.assert_close(filtered[1, 2].double(), by_numpy(images[1, 2].double(), 8), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [16, 32, 33])
def test_nothing_is_left_of_a_constant_image(size: int) -> None:
    levels = torch.rand(2, 3, 1, 1, generator=stream(0, "levels"))
    assert high_pass(levels.expand(2, 3, size, size), radius_rel=0.25).abs().max() < 1e-6


@pytest.mark.parametrize(("rows", "columns"), [(0, 7), (0, 8), (5, 6), (6, 6), (8, 0), (16, 0), (3, 16), (16, 16)])
def test_a_wave_passes_whole_from_the_radius_on_and_not_at_all_below(rows: int, columns: int) -> None:
    place = torch.arange(32, dtype=torch.float64)
    phase = 2 * math.pi / 32 * (rows * place[:, None] + columns * place)
    wave = phase.cos().expand(1, 3, 32, 32)
    expected = wave if rows**2 + columns**2 >= 64 else torch.zeros_like(wave)
    torch.testing.assert_close(high_pass(wave, radius_rel=0.25), expected, atol=1e-12, rtol=0)


def test_what_passes_once_passes_again_and_shares_nothing_with_what_did_not() -> None:
    images = noise(32)
    high = high_pass(images, radius_rel=0.25)
    torch.testing.assert_close(high_pass(high, radius_rel=0.25), high, atol=1e-12, rtol=0)
    assert (high * (images - high)).sum(dim=(2, 3)).abs().max() < 1e-9
    assert high.min() < -0.1  # not clipped
    assert torch.equal(images, noise(32))
