"""Rows are chosen evenly, and principal coordinates keep what depends on distances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis import principal_coordinates, ranks_in_class


@given(st.lists(st.sampled_from([0, 1, 4, 7]), min_size=1, max_size=40), st.integers(0, 999))
def test_every_class_is_numbered_from_zero(labels: list[int], seed: int) -> None:
    ranks = ranks_in_class(torch.tensor(labels), torch.Generator().manual_seed(seed)).tolist()
    for label in set(labels):
        own = sorted(rank for rank, each in zip(ranks, labels, strict=True) if each == label)
        assert own == list(range(labels.count(label)))


def test_every_row_of_a_class_is_as_likely_to_come_first() -> None:
    labels = torch.tensor([5, 2, 5, 5, 2])
    generator = torch.Generator().manual_seed(0)
    first = sum((ranks_in_class(labels, generator) == 0).long() for _ in range(3000))
    assert isinstance(first, torch.Tensor)
    assert (first / 3000).tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 2], abs=0.04)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
def test_principal_coordinates_keep_all_inner_products_around_the_mean(count: int, dimensions: int, seed: int) -> None:
    x = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))
    found = principal_coordinates(x)
    assert found.shape == (count, max(1, min(count - 1, dimensions)))
    centred = (x - x.mean(dim=0)).double()
    assert torch.allclose(found @ found.T, centred @ centred.T, atol=1e-4)
    spread = found.square().sum(dim=0)
    assert (spread[:-1] >= spread[1:] - 1e-6).all()
    # Different axes are uncorrelated: these are principal components, not any rotation.
    cross = found.T @ found
    assert (cross - cross.diag().diag()).abs().max() < 1e-4
