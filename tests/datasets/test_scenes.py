"""The rendered scenes: bytes that stay, shapes that differ, nuisances that vary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.datasets import scenes
from engine.images import checksum
from engine.protocols import Split


def build(**settings: Any) -> Split:
    return scenes.build(scenes.Spec(kind="scenes", **settings), root=Path("unused"))


def test_the_bytes_are_these() -> None:
    expected = "e9e01d5cb89345c4ecb5067bcb714e75977daf938a416bb95bea165202b6d5d7"
    assert checksum(build(train_per_class=2, test_per_class=1)) == expected


def test_the_training_half_does_not_depend_on_the_test_half() -> None:
    one, two = build(train_per_class=2, test_per_class=1), build(train_per_class=2, test_per_class=3)
    assert torch.equal(one.train.images_u8, two.train.images_u8)


@pytest.mark.parametrize("size", [8, 16, 32, 33])
def test_every_image_shows_a_motif_on_a_ground(size: int) -> None:
    train = build(image_size=size, train_per_class=4).train
    grey = train.images_u8.float().mean(dim=1).flatten(1)
    assert (grey.quantile(0.95, dim=1) - grey.quantile(0.05, dim=1)).min() > 40


def test_without_difficulty_only_place_and_scale_vary() -> None:
    train = build(train_per_class=6, difficulty=0.0, image_size=32).train
    for label in range(len(train.class_names)):
        images = train.images_u8[train.labels == label]
        assert torch.equal(images[:, 0], images[:, 1])  # grey
        assert len({image.min().item() for image in images}) == 1  # one ground
        assert len({image.numpy().tobytes() for image in images}) == 6


def test_difficulty_makes_images_of_a_class_less_alike() -> None:
    spread = [
        build(train_per_class=10, difficulty=difficulty).train.images_u8.float().mean(dim=(1, 2, 3)).std().item()
        for difficulty in (0.0, 1.0, 2.0)
    ]
    assert spread == sorted(spread)


def test_shapes_differ_and_none_is_the_mirror_image_of_another() -> None:
    axis = (torch.arange(32, dtype=torch.float64) + 0.5) / 16 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    masks = {name: shape(x, y) < 0 for name, shape in scenes.SHAPES.items()}
    assert len(masks) == scenes.Spec.num_classes
    for name, mask in masks.items():
        assert 0.1 < mask.float().mean() < 0.6, name
        assert torch.equal(mask, mask.flip(1)), f"a flip must not change {name}"
        others = [other for key, other in masks.items() if key != name]
        assert min((mask ^ other).float().mean() for other in others) > 0.03, name


def test_labels_of_the_classes_come_in_turn() -> None:
    assert build(train_per_class=2).train.labels.tolist() == [*range(10), *range(10)]
