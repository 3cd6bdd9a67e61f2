"""Published data sets, on small files in the real formats; torchvision's checksums are replaced."""

from __future__ import annotations

import hashlib
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as published
from pydantic import TypeAdapter

from engine import plugins
from engine.images import DatasetMissing
from engine.protocols import Split

PER_CLASS = 2
LABELS = list(range(10)) * PER_CLASS


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


class OldPixels:
    """An array that is pickled as NumPy wrote it in 2009: the alignment of its type is an integer."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        constructor, arguments, (version, shape, _, order, content) = self.array.__reduce__()
        return constructor, arguments, (version, shape, OldType(), order, content)


class OldType:
    def __reduce__(self) -> Any:
        return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)


def pixels_of(count: int) -> np.ndarray:
    """Rows as CIFAR stores them: 1,024 red values, then green, then blue; image n has red n, green 1, blue 2."""
    rows = np.zeros((count, 3, 1024), dtype=np.uint8)
    rows[:, 0] = np.arange(count)[:, None]
    rows[:, 1], rows[:, 2] = 1, 2
    rows[:, 0, 1] = 99  # the second pixel of the first row
    return rows.reshape(count, 3072)


def fake_cifar(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: type[published.CIFAR10], classes: int, key: str
) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    labels = list(range(classes)) * PER_CLASS
    for attribute in ("train_list", "test_list"):
        files = []
        for name, _ in getattr(kind, attribute)[:1]:
            (folder / name).write_bytes(pickle.dumps({"data": OldPixels(pixels_of(len(labels))), key: labels}, 2))
            files.append([name, md5(folder / name)])
        monkeypatch.setattr(kind, attribute, files)
    names = folder / kind.meta["filename"]
    names.write_bytes(pickle.dumps({kind.meta["key"]: [f"class {label}" for label in range(classes)]}, 2))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(names)})


def fake_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images = np.zeros((len(LABELS), 3, 96, 96), dtype=np.uint8)
    images[:, 0] = np.arange(len(LABELS))[:, None, None]
    images[:, 1], images[:, 2] = 1, 2
    images[:, 0, 8:, :] = 99  # columns come first in the file: these are all columns but eight
    for half in ("train", "test"):
        (folder / f"{half}_X.bin").write_bytes(images.tobytes())
        (folder / f"{half}_y.bin").write_bytes((np.array(LABELS, dtype=np.uint8) + 1).tobytes())
        files = [[f"{half}_{part}.bin", md5(folder / f"{half}_{part}.bin")] for part in ("X", "y")]
        monkeypatch.setattr(published.STL10, f"{half}_list", files)


def fake_fashion_mnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.arange(len(LABELS), dtype=np.uint8)[:, None, None].repeat(28, axis=1).repeat(28, axis=2)
    for half in ("train", "t10k"):
        header = struct.pack(">4i", 0x0803, *images.shape)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x0801, len(LABELS))
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(header + np.array(LABELS, dtype=np.uint8).tobytes())


FAKES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], str]] = {
    "cifar10": (lambda root, patch: fake_cifar(root, patch, published.CIFAR10, 10, "labels"), "cifar-10-batches-py"),
    "cifar100": (
        lambda root, patch: fake_cifar(root, patch, published.CIFAR100, 100, "fine_labels"),
        "cifar-100-python",
    ),
    "stl10": (fake_stl10, "stl10_binary"),
    "fashion_mnist": (fake_fashion_mnist, "FashionMNIST/raw"),
}
"""How each kind's files are imitated, and the folder they lie in."""


def build(kind: str, root: Path, download: bool = False, **settings: Any) -> Split:
    spec = TypeAdapter(plugins.spec_of("datasets")).validate_python({"kind": kind, **settings})
    split: Split = plugins.build("datasets", spec, root=root, download=download)
    return split


@pytest.mark.parametrize("kind", FAKES)
class TestPublished:
    def test_the_files_are_read(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FAKES[kind][0](tmp_path, monkeypatch)
        split = build(kind, tmp_path)
        classes = plugins.module_of("datasets", kind).Spec.num_classes
        for half in (split.train, split.test):
            assert len(half.class_names) == len(set(half.class_names)) == classes
            assert half.labels.tolist() == list(range(classes)) * PER_CLASS
            assert half.images_u8[:, 0, 0, 0].tolist() == list(range(classes * PER_CLASS))
            assert half.images_u8.is_contiguous()

    def test_images_are_resized_and_cut(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FAKES[kind][0](tmp_path, monkeypatch)
        split = build(kind, tmp_path, image_size=16, train_per_class=1)
        assert split.train.images_u8.shape[1:] == (3, 16, 16)
        assert split.train.labels.bincount().tolist() == [1] * len(split.train.class_names)
        assert len(split.test) == len(split.test.class_names) * PER_CLASS

    def test_absent_files_are_an_error_that_says_how_to_get_them(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(DatasetMissing) as caught:
            build(kind, tmp_path / "data")
        assert str(tmp_path / "data" / FAKES[kind][1]) in str(caught.value)
        assert f"`python -m engine download {kind}`" in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)
        assert not (tmp_path / "data").exists()

    def test_damaged_files_are_an_error(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FAKES[kind][0](tmp_path, monkeypatch)
        for file in (tmp_path / FAKES[kind][1]).iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DatasetMissing, match="damaged"):
            build(kind, tmp_path)

    def test_a_download_without_a_network_is_an_error(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = []

        def refuse(*address: Any, **settings: Any) -> Any:
            limits.append(socket.getdefaulttimeout())
            raise OSError("no route to host")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        with pytest.raises(DatasetMissing, match=rf"{kind} could not be downloaded into .*{FAKES[kind][1]}: "):
            build(kind, tmp_path, download=True)
        assert set(limits) == {60.0}
        assert socket.getdefaulttimeout() is None


def test_cifars_planes_become_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAKES["cifar10"][0](tmp_path, monkeypatch)
    image = build("cifar10", tmp_path).train.images_u8[5]
    assert image[:, 0, 0].tolist() == [5, 1, 2]
    assert image[:, 0, 1].tolist() == [99, 1, 2]
    assert image[:, 1, 0].tolist() == [5, 1, 2]


def test_stl10_is_stored_by_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAKES["stl10"][0](tmp_path, monkeypatch)
    red = build("stl10", tmp_path).train.images_u8[5, 0]
    assert torch.equal(red[:, :8], torch.full((96, 8), 5, dtype=torch.uint8))
    assert torch.equal(red[:, 8:], torch.full((96, 88), 99, dtype=torch.uint8))


def test_a_download_leaves_nothing_else_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAKES["cifar10"][0](tmp_path, monkeypatch)
    assert len(build("cifar10", tmp_path, download=True).train) == 20  # what is there is not fetched again
