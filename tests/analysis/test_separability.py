"""Separability and t-SNE where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances

from engine.analysis import embed_tsne, linear_separability, ranks_in_class

K = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=generator(seed))


def labels_of(count: int) -> torch.Tensor:
    return torch.arange(count) % K


def test_class_wise_noise_is_wholly_separable() -> None:
    labels = labels_of(100)
    assert linear_separability(noise(K)[labels], labels, generator=generator()) == 1.0


def test_independent_noise_is_at_chance_though_its_fitted_rows_are_separable() -> None:
    labels, rows = labels_of(400), noise(400)
    fitted = LogisticRegression(max_iter=1000).fit(rows[:200].flatten(1), labels[:200])
    assert fitted.score(rows[:200].flatten(1), labels[:200]) == 1.0
    found = linear_separability(rows, labels, generator=generator())
    assert found is not None
    assert abs(found - 1 / K) < 0.09  # three standard deviations of 200 guesses


def test_the_number_is_that_of_a_regression_on_the_pixels_themselves() -> None:
    labels = labels_of(200)
    rows = 0.12 * noise(K)[labels] + noise(200, seed=2)
    found = linear_separability(rows, labels, generator=generator())
    half = (ranks_in_class(labels, generator()) % 2).bool()
    flat = rows.flatten(1).double().numpy()
    flat = flat / np.sqrt((flat**2).mean(axis=1, keepdims=True))
    direct = LogisticRegression(max_iter=5000, tol=1e-8).fit(flat[~half], labels[~half])
    expected = direct.score(flat[half], labels[half])
    assert 0.3 < expected < 0.95
    assert found == pytest.approx(expected, abs=0.011)  # one row of a hundred, on the edge


def test_it_depends_on_directions_and_not_on_sizes() -> None:
    labels = labels_of(60)
    rows = noise(K)[labels] + 0.5 * noise(60, seed=2)
    sizes = torch.rand(60, 1, 1, 1, generator=generator(3)) + 0.01
    scaled = linear_separability(1e-3 * sizes * rows, labels, generator=generator())
    assert scaled == linear_separability(rows, labels, generator=generator())


def test_images_that_stay_as_they_are_carry_nothing() -> None:
    labels = labels_of(100)
    assert linear_separability(torch.zeros(100, 3, 4, 4), labels, generator=generator()) == pytest.approx(1 / K)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2], [3]])
def test_there_is_no_number_without_two_classes_and_rows_to_judge(labels: list[int]) -> None:
    assert linear_separability(noise(len(labels)), torch.tensor(labels), generator=generator()) is None


def test_points_of_clusters_lie_with_their_own() -> None:
    labels = labels_of(100)
    points = embed_tsne(3 * noise(K)[labels] + noise(100, seed=2))
    assert points is not None
    assert points.shape == (100, 2)
    distances = pairwise_distances(points.numpy())
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    centres = torch.stack([points[labels == k].mean(dim=0) for k in range(K)])
    radius = max((points[labels == k] - centres[k]).norm(dim=1).max().item() for k in range(K))
    assert torch.pdist(centres).min() > 2 * radius


def test_the_same_noise_gives_the_same_points_and_is_left_alone() -> None:
    rows = noise(40)
    before = rows.clone()
    first, second = embed_tsne(rows), embed_tsne(rows)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    assert torch.equal(rows, before)


def test_class_wise_noise_is_one_finite_point_a_class() -> None:
    labels = labels_of(50)
    points = embed_tsne(noise(K)[labels])
    assert points is not None
    assert points.isfinite().all()
    within = max((points[labels == k] - points[labels == k][0]).norm(dim=1).max().item() for k in range(K))
    assert within < 0.05 * torch.pdist(points[:K]).min()


@pytest.mark.parametrize("count", [4, 5, 7])
def test_a_few_rows_are_placed_too(count: int) -> None:
    points = embed_tsne(noise(count))
    assert points is not None
    assert points.shape == (count, 2)
    assert points.isfinite().all()


def test_noise_along_one_line_is_placed() -> None:
    points = embed_tsne(noise(1) * torch.linspace(-1, 1, 20)[:, None, None, None])
    assert points is not None
    assert points.isfinite().all()


def test_nothing_is_placed_where_there_is_nothing_to_tell_apart() -> None:
    assert embed_tsne(noise(3)) is None
    assert embed_tsne(noise(1).expand(10, -1, -1, -1)) is None
