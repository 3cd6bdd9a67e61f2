"""Noise at full size: inside the budget for any size and any noise, and the interpolation that torch makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protecting import upsample
from engine.protecting.upsample import interpolation_matrix, max_difference, protect_image
from engine.randomness import stream


@given(st.integers(1, 40), st.integers(1, 90))
def test_weights_are_convex_for_any_two_lengths(size: int, length: int) -> None:
    weights = interpolation_matrix(size, length)
    assert weights.shape == (length, size)
    assert weights.min() >= 0
    assert torch.allclose(weights.sum(1), torch.ones(length), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 100), (16, 33), (8, 8), (5, 3), (1, 40)])
def test_the_interpolation_is_torchs(height: int, width: int) -> None:
    noise = torch.randn(3, 8, 8, generator=stream(0, "noise"))
    ours = interpolation_matrix(8, height) @ noise @ interpolation_matrix(8, width).T
    theirs = F.interpolate(noise[None], size=(height, width), mode="bilinear", antialias=True)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)


@settings(deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 8, 16]),
    st.integers(0, 127),
    st.sampled_from(["extreme", "any", "constant"]),
    st.integers(0, 10**6),
)
def test_no_value_leaves_the_budget_at_any_size(
    height: int, width: int, size: int, bound: int, noise: str, seed: int
) -> None:
    draws = stream(seed, "case")
    levels = torch.randint(-bound, bound + 1, (3, size, size), generator=draws, dtype=torch.int8)
    if noise == "extreme":
        levels = torch.where(levels >= 0, bound, -bound).to(torch.int8)
    if noise == "constant":
        levels = torch.full_like(levels, bound)
    image = torch.randint(0, 256, (height, width, 3), generator=draws, dtype=torch.uint8).numpy()
    protected = protect_image(image, levels, bound=bound)
    assert protected.dtype == np.uint8
    assert protected.shape == image.shape
    assert max_difference(image, protected) <= bound
    if noise == "constant":
        assert np.array_equal(protected, np.minimum(image.astype(int) + bound, 255))


def test_at_the_working_size_noise_is_added_as_it_is() -> None:
    levels = torch.randint(-8, 9, (3, 16, 16), generator=stream(0, "levels"), dtype=torch.int8)
    image = np.full((16, 16, 3), 100, dtype=np.uint8)
    protected = protect_image(image, levels, bound=8)
    assert np.array_equal(protected.astype(int) - 100, levels.permute(1, 2, 0).numpy())


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = stream(0, "strips")
    levels = torch.randint(-8, 9, (3, 8, 8), generator=draws, dtype=torch.int8)
    image = torch.randint(0, 256, (37, 23, 3), generator=draws, dtype=torch.uint8).numpy()
    whole = protect_image(image, levels, bound=8)
    monkeypatch.setattr(upsample, "STRIP", 40)
    assert np.array_equal(protect_image(image, levels, bound=8), whole)


def test_noise_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="9 grey levels is over the budget of 8"):
        protect_image(np.zeros((4, 4, 3), dtype=np.uint8), torch.full((3, 2, 2), -9, dtype=torch.int8), bound=8)


def test_differences_of_eight_bit_images_do_not_wrap() -> None:
    black, white = np.zeros((2, 2, 3), dtype=np.uint8), np.full((2, 2, 3), 255, dtype=np.uint8)
    assert max_difference(black, white) == max_difference(white, black) == 255
