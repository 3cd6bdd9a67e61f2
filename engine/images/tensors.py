"""Labelled images as tensors: which rows form a half or a subset, resizing, a checksum.

Shapes: N images of C channels, H x W pixels, eight bits; rows int64, ascending.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Protocol, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.images.presence import DatasetFault
from engine.protocols import Split
from engine.randomness import stream

CHUNK = 4096  # images resized at a time; only memory depends on it


class Labelled(Protocol):
    """Whatever has a label a row: images, or files of images."""

    @property
    def labels(self) -> Tensor:
        """Class numbers, int64 [N]."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""

    def __getitem__(self, rows: Tensor) -> Self:
        """Return some of the rows."""


Half = TypeVar("Half", bound=Labelled)


def subset(half: Half, per_class: int | None, *, seed: int, name: str) -> Half:
    """Draw a number of rows of every class, in their old order; None keeps all.

    With the same seed a smaller subset is part of a larger one. The name, ``train`` or ``test``, gives each
    half a stream of its own.

    Raises:
        DatasetFault: a class has fewer rows; all such classes are named.
    """
    if per_class is None:
        return half
    classes = rows_by_class(half)
    short = [
        f"{class_name} ({len(rows)})"
        for class_name, rows in zip(half.class_names, classes, strict=True)
        if len(rows) < per_class
    ]
    if short:
        raise DatasetFault(f"{name}_per_class is {per_class}, but some classes have fewer: {', '.join(short)}")
    generator = stream(seed, "dataset", name)
    chosen = [rows[torch.randperm(len(rows), generator=generator)[:per_class]] for rows in classes]
    return half[torch.cat(chosen).sort().values]


def hold_out(whole: Half, fraction: float, *, seed: int) -> tuple[Half, Half]:
    """Draw a fraction of every class for testing; return the training half and the test half.

    Both halves get at least one row of each class.

    Raises:
        DatasetFault: a class has one row only.
    """
    generator = stream(seed, "dataset", "split")
    train, test = [], []
    for name, rows in zip(whole.class_names, rows_by_class(whole), strict=True):
        if len(rows) < 2:
            raise DatasetFault(f"class {name!r} has {len(rows)} image, too few to split into a train and a test half")
        held_out = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        order = rows[torch.randperm(len(rows), generator=generator)]
        test.append(order[:held_out])
        train.append(order[held_out:])
    return whole[torch.cat(train).sort().values], whole[torch.cat(test).sort().values]


def rows_by_class(half: Labelled) -> list[Tensor]:
    """Return the rows of each class."""
    return [(half.labels == label).nonzero().squeeze(1) for label in range(len(half.class_names))]


def resize_u8(images_NCHW: Tensor, size: int) -> Tensor:
    """Resize square images with Pillow's antialiased bilinear filter.

    Raises:
        ValueError: the images are not square.
    """
    height, width = images_NCHW.shape[2:]
    if height != width:
        raise ValueError(f"expected square images, got {height} x {width}")
    if height == size:
        return images_NCHW
    chunks = [
        F.interpolate(chunk, size=(size, size), mode="bilinear", antialias=True) for chunk in images_NCHW.split(CHUNK)
    ]
    return torch.cat(chunks)


def grey_to_rgb(images_NHW: Tensor) -> Tensor:
    """Return grey images as RGB images with three equal channels: [N, 3, H, W]."""
    return images_NHW[:, None].repeat(1, 3, 1, 1)


def prepare(
    split: Split, *, image_size: int, train_per_class: int | None, test_per_class: int | None, subset_seed: int
) -> Split:
    """Return both halves, cut to a number of images per class where one is given, and resized by ``resize_u8``."""
    halves = (
        subset(split.train, train_per_class, seed=subset_seed, name="train"),
        subset(split.test, test_per_class, seed=subset_seed, name="test"),
    )
    return Split(*(replace(half, images_u8=resize_u8(half.images_u8, image_size).contiguous()) for half in halves))


def checksum(split: Split) -> str:
    """Return the SHA-256 of both halves' shapes, pixels and labels."""
    digest = hashlib.sha256()
    for images in (split.train, split.test):
        for tensor in (images.images_u8, images.labels):
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
