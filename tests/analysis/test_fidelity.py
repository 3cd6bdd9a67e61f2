"""PSNR and SSIM against closed forms and a reference written with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis import psnr, ssim


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def ssim_by_loops(x: np.ndarray, y: np.ndarray, side: int) -> float:
    """Structural similarity of two grey images [H, W]: every window's weighted moments around its own means."""
    middle = side // 2
    weights = np.array(
        [[math.exp(-((i - middle) ** 2 + (j - middle) ** 2) / (2 * 1.5**2)) for j in range(side)] for i in range(side)]
    )
    weights /= weights.sum()
    found = []
    for top in range(x.shape[0] - side + 1):
        for left in range(x.shape[1] - side + 1):
            a, b = (image[top : top + side, left : left + side] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a = (weights * (a - mean_a) ** 2).sum()
            variance_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
            found.append(luminance * structure)
    return float(np.mean(found))


@pytest.mark.parametrize(("height", "width", "side"), [(14, 13, 11), (11, 11, 11), (8, 12, 7), (7, 7, 7), (2, 5, 1)])
def test_ssim_is_that_of_the_loops(height: int, width: int, side: int) -> None:
    clean = images(2, height, width)
    released = (clean + 0.2 * images(2, height, width, seed=1) - 0.1).clamp(0, 1)
    expected = [
        np.mean([ssim_by_loops(a.numpy(), b.numpy(), side) for a, b in zip(x.double(), y.double(), strict=True)])
        for x, y in zip(clean, released, strict=True)
    ]
    assert ssim(clean, released).tolist() == pytest.approx(expected, abs=1e-9)


def test_identical_images_have_ssim_one_and_infinite_psnr() -> None:
    clean = images(3, 16, 16)
    assert ssim(clean, clean).tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert psnr(clean, clean).tolist() == [math.inf] * 3


def test_constant_images_have_the_luminance_term_alone() -> None:
    dark, light = torch.full((1, 3, 12, 12), 0.2), torch.full((1, 3, 12, 12), 0.6)
    assert ssim(dark, light).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-6)


def test_psnr_of_known_errors() -> None:
    clean = torch.full((3, 3, 4, 4), 0.5)
    released = clean + torch.tensor([8 / 255, -8 / 255, 0.1])[:, None, None, None]
    budget = 20 * math.log10(255 / 8)  # all of the budget in every pixel: 30.07 dB
    assert psnr(clean, released).tolist() == pytest.approx([budget, budget, 20.0], abs=1e-4)
    one_pixel = clean.clone()
    one_pixel[0, 0, 0, 0] += 0.5
    assert psnr(clean, one_pixel)[0].item() == pytest.approx(10 * math.log10(48 / 0.25), abs=1e-4)


def test_images_are_judged_one_by_one_however_many_there_are() -> None:
    clean = images(130, 12, 12)
    released = (clean + 0.1 * images(130, 12, 12, seed=1)).clamp(0, 1)
    for measure in (psnr, ssim):
        whole = measure(clean, released)
        assert whole.shape == (130,)
        assert whole[[3, 129]].tolist() == pytest.approx(measure(clean[[3, 129]], released[[3, 129]]).tolist())


@given(st.integers(1, 16), st.integers(0, 999), st.floats(0.01, 0.5))
def test_ssim_is_symmetric_and_falls_with_noise(side: int, seed: int, size: float) -> None:
    clean = images(1, side, side, seed)
    noisy = clean + size * (images(1, side, side, seed + 1) - 0.5)
    found = ssim(clean, noisy).item()
    assert found == pytest.approx(ssim(noisy, clean).item(), abs=1e-12)
    assert -1 <= found < 1
    assert psnr(clean, noisy).item() > psnr(clean, 2 * noisy - clean).item()
