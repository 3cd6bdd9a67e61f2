"""Folders that hold one folder of image files per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.images.files import decode
from engine.images.presence import DatasetFault, require_folder
from engine.protocols import ImageSet, Progress, Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""How names of image files end, in any case; other files are left alone."""


@dataclass(frozen=True)
class FileSet:
    """Labelled image files, sorted by class and path.

    Shapes: labels int64 [N], a row a file.
    """

    files: tuple[Path, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    folder: Path
    """Where the class folders lie."""

    def __getitem__(self, rows: Tensor) -> FileSet:
        files = tuple(self.files[row] for row in rows.tolist())
        return FileSet(files, self.labels[rows], self.class_names, self.folder)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the files relative to the folder, as posix paths."""
        return tuple(file.relative_to(self.folder).as_posix() for file in self.files)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted, without hidden ones.

    Raises:
        DatasetMissing: there is no such folder.
        DatasetFault: it holds no folder.
    """
    require_folder(folder, holds="one folder of images per class")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry))
    if not found:
        raise DatasetFault(f"{folder.absolute()} holds no class folders; put images into {folder}/<class>/")
    return tuple(found)


def list_files(folder: Path, class_names: Sequence[str]) -> FileSet:
    """Return the image files of some class folders, also those in folders further down.

    Raises:
        DatasetFault: a class has no image file; all such classes are named.
    """
    by_class = [_images_in(folder / name) for name in class_names]
    empty = [name for name, files in zip(class_names, by_class, strict=True) if not files]
    if empty:
        raise DatasetFault(
            f"{folder.absolute()} has class folders without an image file: {', '.join(empty)}; "
            f"fill or remove them (known endings: {' '.join(SUFFIXES)})"
        )
    counts = torch.tensor([len(files) for files in by_class])
    labels = torch.arange(len(by_class)).repeat_interleave(counts)
    return FileSet(tuple(file for files in by_class for file in files), labels, tuple(class_names), folder)


def _images_in(folder: Path) -> list[Path]:
    found = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not _is_hidden(file) and file.is_file()
    ]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _is_hidden(entry: Path) -> bool:
    return entry.name.startswith(".")


def decode_split(train: FileSet, test: FileSet, size: int, progress: Progress | None = None) -> Split:
    """Decode the files of both halves.

    Raises:
        DatasetFault: some files cannot be read; those of both halves are named.
    """
    images_u8 = decode((*train.files, *test.files), size, progress)
    first, second = images_u8.split([len(train.files), len(test.files)])
    halves = ((train, first), (test, second))
    return Split(*(ImageSet(images, half.labels, half.class_names, half.names) for half, images in halves))
