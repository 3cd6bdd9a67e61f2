"""Halves, subsets, resizing and the checksum of labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.images import DatasetFault, FileSet, checksum, grey_to_rgb, hold_out, prepare, resize_u8, subset
from engine.protocols import ImageSet, Split
from engine.randomness import stream


def image_set(counts: list[int], size: int = 8) -> ImageSet:
    """Images whose pixels all hold their row's number, in a mixed order of classes."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=stream(0, "test"))]
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].repeat(1, 3, size, size)
    return ImageSet(pixels, labels, tuple(f"c{label}" for label in range(len(counts))))


def rows_of(images: ImageSet) -> list[int]:
    return images.images_u8[:, 0, 0, 0].tolist()


COUNTS = st.lists(st.integers(3, 12), min_size=1, max_size=5)


@given(COUNTS, st.integers(1, 3), st.integers(0, 5))
def test_a_subset_has_as_many_of_every_class_in_the_old_order(counts: list[int], per_class: int, seed: int) -> None:
    whole = image_set(counts)
    part = subset(whole, per_class, seed=seed, name="train")
    assert part.labels.bincount().tolist() == [per_class] * len(counts)
    assert rows_of(part) == sorted(rows_of(part))
    assert torch.equal(part.labels, whole.labels[rows_of(part)])


@given(COUNTS, st.integers(0, 5))
def test_a_smaller_subset_is_part_of_a_larger_one(counts: list[int], seed: int) -> None:
    small, large = (subset(image_set(counts), n, seed=seed, name="train") for n in (1, 2))
    assert set(rows_of(small)) < set(rows_of(large))


def test_a_subset_depends_on_its_seed_and_its_half_alone() -> None:
    whole = image_set([40, 40])
    drawn = [rows_of(subset(whole, 5, seed=seed, name=name)) for seed, name in ((0, "train"), (0, "train"))]
    assert drawn[0] == drawn[1]
    assert rows_of(subset(whole, 5, seed=1, name="train")) != drawn[0]
    assert rows_of(subset(whole, 5, seed=0, name="test")) != drawn[0]
    assert subset(whole, None, seed=0, name="train") is whole


def test_classes_that_are_too_small_are_all_named() -> None:
    with pytest.raises(DatasetFault, match=r"train_per_class is 5, but some classes have fewer: c0 \(3\), c2 \(4\)"):
        subset(image_set([3, 5, 4]), 5, seed=0, name="train")


@given(COUNTS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_halves_are_disjoint_and_complete_and_have_every_class(counts: list[int], fraction: float, seed: int) -> None:
    whole = image_set(counts)
    train, test = hold_out(whole, fraction, seed=seed)
    assert sorted(rows_of(train) + rows_of(test)) == list(range(len(whole)))
    for half in (train, test):
        assert half.labels.unique().tolist() == list(range(len(counts)))
        assert rows_of(half) == sorted(rows_of(half))
    for count, held_out in zip(counts, test.labels.bincount().tolist(), strict=True):
        assert held_out == min(max(round(fraction * count), 1), count - 1)


def test_a_class_of_one_image_cannot_be_halved() -> None:
    with pytest.raises(DatasetFault, match="class 'c1' has 1 image"):
        hold_out(image_set([3, 1]), 0.5, seed=0)


def test_files_are_cut_like_images() -> None:
    labels = torch.arange(2).repeat(6)
    files = FileSet(tuple(Path(str(row)) for row in range(12)), labels, ("a", "b"), Path())
    images = ImageSet(torch.arange(12, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8), labels, ("a", "b"))
    for_files, for_images = (subset(half, 2, seed=3, name="test") for half in (files, images))
    assert [int(file.name) for file in for_files.files] == rows_of(for_images)
    assert torch.equal(for_files.labels, for_images.labels)


@pytest.mark.parametrize(("before", "after"), [(8, 16), (32, 16), (28, 32), (96, 32), (33, 8)])
def test_resizing_is_pillows_antialiased_bilinear_filter(before: int, after: int) -> None:
    images = torch.randint(0, 256, (3, 3, before, before), generator=stream(0, "test"), dtype=torch.uint8)
    ours = resize_u8(images, after)
    assert ours.dtype == torch.uint8
    for image, resized in zip(images, ours, strict=True):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((after, after), Image.Resampling.BILINEAR)
        assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow, dtype=int)).max() <= 1


def test_resizing_to_the_same_size_changes_nothing_and_needs_squares() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    assert resize_u8(images, 9) is images
    with pytest.raises(ValueError, match="expected square images, got 9 x 8"):
        resize_u8(images[..., :8], 9)


def test_grey_becomes_three_equal_channels() -> None:
    grey = torch.arange(8, dtype=torch.uint8).view(2, 2, 2)
    assert torch.equal(grey_to_rgb(grey), torch.stack([grey] * 3, dim=1))


def test_preparing_cuts_and_resizes_both_halves() -> None:
    split = Split(image_set([6, 5]), image_set([4, 4]))
    prepared = prepare(split, image_size=16, train_per_class=3, test_per_class=None, subset_seed=0)
    assert prepared.train.images_u8.shape == (6, 3, 16, 16)
    assert prepared.test.images_u8.shape == (8, 3, 16, 16)
    assert rows_of(prepared.train) == rows_of(subset(split.train, 3, seed=0, name="train"))


def test_the_checksum_sees_pixels_labels_and_shapes() -> None:
    split = Split(image_set([3, 3]), image_set([2, 2]))
    sums = {checksum(split), checksum(Split(image_set([3, 3]), image_set([2, 2])))}
    assert len(sums) == 1
    brighter = split.train.images_u8.clone()
    brighter[2, 1, 3, 4] += 1
    names = split.train.class_names
    train, test = split.train, split.test
    others = [
        Split(ImageSet(brighter, train.labels, names), test),
        Split(ImageSet(train.images_u8, 1 - train.labels, names), test),
        Split(ImageSet(train.images_u8.view(6, 3, 4, 16), train.labels, names), test),
        Split(test, train),
    ]
    assert len({*sums, *map(checksum, others)}) == 1 + len(others)


def test_the_checksum_does_not_depend_on_the_memory_layout() -> None:
    train = image_set([3, 3])
    strided = ImageSet(train.images_u8.to(memory_format=torch.channels_last), train.labels, train.class_names)
    assert checksum(Split(train, train)) == checksum(Split(strided, strided))
