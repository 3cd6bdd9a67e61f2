"""Clusters of features that fall into groups by construction."""

from __future__ import annotations

import pytest
import torch

from engine.errors import EngineError
from engine.protecting.clusters import SMALLEST, cluster
from engine.randomness import stream


def test_groups_are_found_whatever_their_length_and_numbered_by_size() -> None:
    draws = stream(0, "clusters")
    sizes = [10 + 5 * number for number in range(10)]
    truth = torch.arange(10).repeat_interleave(torch.tensor(sizes))
    directions = torch.eye(10)[truth] + 0.05 * torch.randn(len(truth), 10, generator=draws)
    found = cluster(directions * torch.rand(len(truth), 1, generator=draws).add(0.1), seed=0)
    assert torch.equal(found, 9 - truth)


def test_no_cluster_is_too_small_to_be_halved() -> None:
    features = torch.randn(60, 3, generator=stream(0, "few"))
    found = cluster(features, seed=0)
    assert 2 <= len(found.unique()) <= 10
    assert found.bincount().min() >= SMALLEST
    assert torch.equal(cluster(features, seed=0), found)


@pytest.mark.parametrize("features", [torch.ones(40, 3), torch.randn(9, 3)])
def test_images_that_are_all_alike_or_too_few_are_an_error(features: torch.Tensor) -> None:
    with pytest.raises(EngineError, match="do not fall into two clusters of 5 or more"):
        cluster(features, seed=0)
