"""Pseudo-labels: clusters that anybody would find, and what they depend on."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from engine.errors import EngineError
from engine.normalization import BatchNorm1d
from engine.precision import Precision
from engine.protocols import DefenseContext, ImageSet
from engine.randomness import stream
from engine.training.pseudo_labels import cluster, pseudo_labelled

CPU = Precision("fp32", torch.device("cpu"))


def blobs(groups: int, size: int, spread: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return points around the corners of a cube, and their corners, in a shuffled order."""
    generator = stream(0, "blobs")
    corners = torch.arange(groups).repeat(size)[torch.randperm(groups * size, generator=generator)]
    axes = torch.tensor([[corner >> axis & 1 for axis in range(3)] for corner in range(groups)]).float()
    return axes[corners] + spread * torch.randn(len(corners), 3, generator=generator), corners


def same_parts(one: Tensor, other: Tensor) -> bool:
    """Tell whether two labellings part the rows alike, whatever their labels are called."""
    return torch.equal(one[:, None] == one, other[:, None] == other)


def test_separate_groups_are_found_whole_and_of_equal_sizes() -> None:
    points, corners = blobs(8, 25)
    labels = cluster(points, (8, 2), stream(0, "clusters"))
    assert labels.dtype == torch.int64
    assert same_parts(labels[:, 0], corners)
    assert labels[:, 0].bincount().tolist() == [25] * 8
    # Two clusters of a cube's corners are the halves to both sides of a plane: every corner stays whole.
    halves = [labels[corners == corner, 1].unique() for corner in range(8)]
    assert all(len(half) == 1 for half in halves)
    assert set(torch.cat(halves).tolist()) == {0, 1}


def test_every_clustering_uses_all_of_its_labels() -> None:
    points = torch.rand(60, 4, generator=stream(0, "points"))
    labels = cluster(points, (2, 5, 60), stream(0, "clusters"))
    assert labels.shape == (60, 3)
    assert [sorted(column.unique().tolist()) for column in labels.T] == [list(range(count)) for count in (2, 5, 60)]


def test_every_point_is_nearest_to_the_mean_of_its_own_cluster() -> None:
    points, _ = blobs(8, 20, spread=0.15)
    (labels,) = cluster(points, (5,), stream(1, "clusters")).T
    means = [points[labels == label].mean(dim=0) for label in range(5)]
    for point, label in zip(points, labels.tolist(), strict=True):
        distances = [float((point - mean).norm()) for mean in means]
        assert distances[label] <= min(distances) + 1e-3


def test_clusters_are_a_function_of_the_stream_alone() -> None:
    points = torch.rand(200, 6, generator=stream(0, "points"))
    runs = []
    for seed, global_seed, threads in ((0, 1, 1), (0, 2, 2), (1, 1, 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            torch.set_num_threads(threads)
            runs.append(cluster(points, (7, 7), stream(seed, "clusters")))
            torch.set_num_threads(1)
    assert torch.equal(runs[0], runs[1])
    assert not same_parts(runs[0][:, 0], runs[2][:, 0])
    assert not same_parts(*runs[0].T)  # each clustering starts somewhere else


class Blue(nn.Module):
    """An encoder whose feature is an image's blue, in evaluation mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = BatchNorm1d(1)  # would move, and normalise by the batch, in training mode

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images[:, 2].mean(dim=(1, 2))[:, None])


def blue_images() -> tuple[ImageSet, Tensor]:
    """Return images whose red says nothing, of a blue in two groups of unlike sizes."""
    images = torch.randint(0, 256, (40, 3, 4, 4), generator=stream(0, "images"), dtype=torch.uint8)
    is_blue = torch.arange(40) % 4 == 0
    images[:, 2] = torch.where(is_blue, 200, 20)[:, None, None].to(torch.uint8)
    return ImageSet(images, torch.arange(40) % 3, ("a", "b", "c")), is_blue


@pytest.mark.parametrize("features", ["released", "clean"])
def test_clusters_of_an_undefended_encoders_features_stand_behind_the_own_label(
    features: Literal["released", "clean"],
) -> None:
    (images, is_blue), asked, encoder = blue_images(), [], Blue()
    context = DefenseContext(stream(0, "defense"), CPU, lambda which: asked.append(which) or encoder)
    labelled = pseudo_labelled(images, (2,), features=features, context=context)
    assert asked == [features]
    assert torch.equal(labelled.labels[:, 0], images.labels)
    assert same_parts(labelled.labels[:, 1], is_blue.long())
    assert labelled.images_u8 is images.images_u8
    assert labelled.class_names == images.class_names
    assert encoder.norm.num_batches_tracked == 0


def test_fewer_images_than_clusters_are_refused_before_anything_is_trained() -> None:
    def pretrained(which: Literal["released", "clean"]) -> nn.Module:
        raise AssertionError("this takes hours")

    images, _ = blue_images()
    context = DefenseContext(stream(0, "defense"), CPU, pretrained)
    with pytest.raises(EngineError, match="40 images do not fall into 41 clusters; lower the defense's clusters"):
        pseudo_labelled(images, (2, 41, 10), features="released", context=context)
