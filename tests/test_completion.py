"""Completion: both paths are NumPy's decomposition, matrix by matrix; the compiled one the same bits in any batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import completion, native
from engine.completion import complete, truncate
from engine.randomness import stream

COMPILER = native.compiler_command()
PATHS: dict[str, Callable[..., Tensor]] = {
    "compiled": truncate,
    "torch": lambda matrices, *, keep: completion._by_torch(matrices, keep),
}
paths = pytest.mark.parametrize("path", PATHS)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Without this the tests below would compare torch with itself."""
    if not COMPILER:
        pytest.skip("there is no C compiler here")
    assert native.library(completion.SOURCE, "matrix completions") is not None


def decomposed(matrices: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return best approximations, one matrix after the other in double precision, and the singular values [B, S]."""
    results, values = [], []
    for matrix in matrices.double().numpy():
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        results.append((left[:, :keep] * singular[:keep]) @ right[:keep])
        values.append(singular)
    return torch.from_numpy(np.stack(results)).float(), torch.from_numpy(np.stack(values))


def has_gap(values: Tensor, keep: int) -> Tensor:
    """Tell of which matrices [B] the singular values at the cut differ by more than 1 %."""
    if not 0 < keep < values.shape[1]:
        return torch.ones(len(values), dtype=torch.bool)
    return values[:, keep - 1] > 1.01 * values[:, keep]


def photo_like(count: int, rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return matrices in [-1, 1] whose spectrum falls as photographs' do, and a quarter of whose entries is zero."""
    generator = stream(seed, "photo-like")
    noise = torch.fft.fft2(torch.randn(count, rows, columns, generator=generator))
    heights, widths = torch.fft.fftfreq(rows)[:, None], torch.fft.fftfreq(columns)
    smooth = torch.fft.ifft2(noise / (0.02 + torch.hypot(heights, widths))).real
    smooth = (0.5 * smooth / smooth.std()).clamp(-1, 1)
    return smooth * (torch.rand(smooth.shape, generator=generator) >= 0.25)


def with_spectrum(values: Tensor, count: int, columns: int) -> Tensor:
    """Return matrices with given singular values and random singular vectors."""
    generator = stream(0, "vectors")
    left, right = (
        torch.linalg.qr(torch.randn(count, size, len(values), generator=generator).double())[0]
        for size in (len(values), columns)
    )
    return ((left * values.double()) @ right.mT).float()


@paths
def test_photo_like_images_are_numpys(path: str) -> None:
    matrices = photo_like(203, 32, 96)
    expected, values = decomposed(matrices, 16)
    decided = has_gap(values, 16)
    assert 150 < decided.sum() < 203
    torch.testing.assert_close(PATHS[path](matrices, keep=16)[decided], expected[decided], atol=1e-6, rtol=0)


@paths
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 20),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**20),
)
def test_matrices_of_any_shape_are_numpys(
    path: str, count: int, shape: tuple[int, int], share: float, seed: int
) -> None:
    matrices = torch.randn(count, *shape, generator=stream(seed, "matrices"))
    keep = round(share * min(shape))
    expected, values = decomposed(matrices, keep)
    decided = has_gap(values, keep)
    found = PATHS[path](matrices, keep=keep)
    assert found.shape == matrices.shape
    torch.testing.assert_close(found[decided], expected[decided], atol=1e-5, rtol=0)


@paths
@pytest.mark.parametrize("middle", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_one_per_cent_between_small_values_beside_a_large_one_is_enough(path: str, middle: float) -> None:
    # The product of a matrix with itself squares these ratios; in single precision the error would be above 1e-3.
    kept, cut = torch.logspace(1.7, np.log10(1.01 * middle), 16), torch.logspace(np.log10(middle), -6, 16)
    matrices = with_spectrum(torch.cat([kept, cut]), 24, 96)
    expected, _ = decomposed(matrices, 16)
    torch.testing.assert_close(PATHS[path](matrices, keep=16), expected, atol=2e-6, rtol=0)


@paths
@pytest.mark.parametrize("beside", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_reflections_that_hardly_reflect_stay_orthogonal(path: str, beside: float) -> None:
    # Two diagonals, whose product with itself is tridiagonal but for what little stands beside them.
    diagonals, noise = (
        torch.rand(24, 2, 20, generator=stream(0, "diagonals")),
        torch.randn(24, 20, 20, generator=stream(0, "beside")),
    )
    matrices = torch.diag_embed(diagonals[:, 0]) + torch.diag_embed(diagonals[:, 1, 1:], offset=1) + beside * noise
    expected, values = decomposed(matrices, 7)
    decided = has_gap(values, 7)
    assert decided.sum() > 12
    torch.testing.assert_close(PATHS[path](matrices, keep=7)[decided], expected[decided], atol=1e-6, rtol=0)


def special_matrices() -> Tensor:
    """Return matrices with equal, few or no singular values, and very large and small ones."""
    flat, eye = torch.ones(32, 96), torch.eye(32, 96)
    checkers = (torch.arange(32)[:, None] + torch.arange(96)) % 2.0
    blocks = torch.block_diag(*torch.ones(8, 4, 12))
    steps = torch.diag_embed(torch.arange(32.0).div(4).floor())
    random = photo_like(2, 32, 96)
    parts = [0 * flat, flat, eye, checkers, blocks, torch.cat([steps, 0 * steps, 0 * steps], 1), eye + eye.roll(1, 1)]
    return torch.stack([*parts, 1e-30 * random[0], 1e18 * random[1], 0.3 * eye.roll(7, 0)])


@paths
@pytest.mark.parametrize("keep", [0, 1, 5, 16, 31, 32])
def test_ties_are_approximated_as_well_as_they_can_be(path: str, keep: int) -> None:
    # Which of equal singular vectors are kept is not determined; how far the result is from the matrix, is.
    matrices = special_matrices()
    found, (_, values) = PATHS[path](matrices, keep=keep).double(), decomposed(matrices, keep)
    scale = values[:, 0].clamp(min=1e-36)
    distance = (matrices - found).square().sum(dim=(1, 2)).sqrt() / scale
    torch.testing.assert_close(distance, values[:, keep:].square().sum(dim=1).sqrt() / scale, atol=1e-5, rtol=0)
    ranks = (torch.linalg.svdvals(found) > 1e-5 * scale[:, None]).sum(dim=1)
    assert (ranks <= keep).all()


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 21), max_size=5), rows=st.integers(1, 24), order=st.permutations(range(21)))
def test_a_result_does_not_depend_on_the_batch(cuts: list[int], rows: int, order: list[int]) -> None:
    matrices = photo_like(21, rows, 24)
    whole = truncate(matrices, keep=rows // 2)
    pieces = [
        truncate(matrices[slice(*bounds)], keep=rows // 2) for bounds in itertools.pairwise([0, *sorted(cuts), 21])
    ]
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(truncate(matrices[order], keep=rows // 2), whole[order])


def test_threads_and_layouts_give_the_same_bits_and_a_transposed_matrix_its_transposed_result() -> None:
    matrices = photo_like(13, 20, 28)
    expected = truncate(matrices, keep=8)
    laid_out = matrices.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    found = [truncate(laid_out, keep=8), truncate(matrices.mT, keep=8).mT]
    try:
        for threads in (2, 3, 20):
            torch.set_num_threads(threads)
            found.append(truncate(matrices, keep=8))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(each, expected) for each in found)
    assert truncate(matrices[:0], keep=8).shape == (0, 20, 28)


def test_a_matrix_that_is_no_number_ends_and_spoils_no_other() -> None:
    matrices = photo_like(8, 16, 16)
    expected = truncate(matrices, keep=5)
    for value in (torch.nan, torch.inf):
        spoiled = matrices.clone()
        spoiled[3, 4, 5] = value
        found = truncate(spoiled, keep=5)
        others = torch.arange(8) != 3
        assert torch.equal(found[others], expected[others])
        assert found[3].isnan().any()


@paths
def test_completion_divides_by_each_matrix_own_fraction_and_clips(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        monkeypatch.setattr(completion, "_is_for_c", lambda matrices: False)
    matrices = 2 * torch.rand(24, 10, 30, generator=stream(0, "entries")) - 1
    observed = torch.rand(24, 10, 30, generator=stream(0, "observed")) < torch.linspace(0.3, 1, 24)[:, None, None]
    before = matrices.clone()
    found = complete(matrices, observed, keep=6)
    compared = 0
    for matrix, mask, estimate in zip(matrices.double().numpy(), observed.numpy(), found, strict=True):
        left, values, right = np.linalg.svd(np.where(mask, matrix, 0), full_matrices=False)
        if values[5] > 1.01 * values[6]:
            exact = np.clip((left[:, :6] * values[:6]) @ right[:6] / (mask.sum() / mask.size), -1, 1)
            np.testing.assert_allclose(estimate.numpy(), exact, atol=1e-5)
            compared += 1
    assert compared > 16
    assert found.abs().max() == 1  # so that clipping was seen
    assert torch.equal(matrices, before)


def test_nothing_observed_is_estimated_as_zero_and_everything_observed_of_low_rank_as_it_is() -> None:
    values = torch.tensor([5.0, 3.0, 1.0, *[0.0] * 9])
    matrices = with_spectrum(values, 9, 20).clamp(-1, 1)
    nothing, everything = torch.zeros(9, 12, 20, dtype=torch.bool), torch.ones(9, 12, 20, dtype=torch.bool)
    assert not complete(matrices, nothing, keep=6).any()
    low = with_spectrum(values / 6, 9, 20)
    torch.testing.assert_close(complete(low, everything, keep=3), low, atol=1e-6, rtol=0)


def test_no_gradient_passes() -> None:
    matrices = photo_like(2, 8, 12).requires_grad_()
    assert not any(truncate(each, keep=3).requires_grad for each in (matrices, matrices.double()))
    assert not complete(matrices, torch.ones(2, 8, 12, dtype=torch.bool), keep=3).requires_grad


# Shapes around the tile, lanes that are not full, equal and missing values; each array exactly as long as it must be.
EXERCISE = """
#include "completion.c"

static double exercise(int64_t rows, int64_t columns, int64_t count, int64_t keep) {
    size_t size = (size_t)(rows * columns * count);
    float *from = malloc(size ? 4 * size : 1), *to = malloc(size ? 4 * size : 1);
    uint32_t state = 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525u + 1013904223u;
        from[i] = i % 3 ? (float)(state >> 8) / (float)(1 << 24) : (float)(i % 2);
    }
    Call call = {from, to, rows, columns, keep};
    int failed = truncate_rank(&call, 0, count / 2) | truncate_rank(&call, count / 2, count);
    double total = 0;
    for (size_t i = 0; i < size; i++) total += to[i];
    free(from), free(to);
    return failed ? NAN : total;
}

int main(void) {
    double total = 0;
    for (int64_t rows = 1; rows < 20; rows += 1 + rows / 6)
        for (int64_t wider = 0; wider < 4; wider++)
            for (int64_t count = 0; count < 12; count += 5) total += exercise(rows, rows + wider, count, rows / 2);
    return isfinite(total) ? 0 : 1;
}
"""


def test_the_code_has_no_warnings_stays_inside_its_memory_and_has_no_undefined_behaviour(
    examine: Callable[[Path, str], list[str]],
) -> None:
    assert examine(completion.SOURCE, EXERCISE) == ["", "", ""]
