"""One NumPy archive: ``images`` uint8 [N, H, W, 3], ``labels``, ``index``, ``perturbed`` [N], ``class_names``.

``index`` is an image's place in the source data set. Nothing in it is pickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from engine.artifacts import encoded_images
from engine.artifacts.encoding import decode
from engine.artifacts.files import atomic_file

DATE = (1980, 1, 1, 0, 0, 0)
"""When everything in the archive was made: the same bytes every time."""


def write(folder: Path, manifest: dict[str, Any], target: Path) -> None:
    """Write the archive, never more than a row group of it in memory beside labels and places."""
    channels, height, width = manifest["image_shape"]
    labels: list[int] = []
    places: list[int] = []
    flags: list[bool] = []
    for part in encoded_images(folder):
        labels += part.labels
        places += part.places
        flags += part.perturbed
    columns = {
        "labels": np.array(labels, dtype=np.int64),
        "index": np.array(places, dtype=np.int64),
        "perturbed": np.array(flags, dtype=np.bool_),
        "class_names": np.array(manifest["class_names"], dtype=np.str_),
    }
    with atomic_file(target) as partial, zipfile.ZipFile(partial, "w") as archive:
        with _member(archive, "images") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (manifest["images"], height, width, channels)}
            np.lib.format.write_array_header_2_0(stream, header)
            for block in _blocks(folder):
                stream.write(block.data)
        for name, column in columns.items():
            with _member(archive, name) as stream:
                np.lib.format.write_array(stream, column, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", DATE), "w", force_zip64=True)


def _blocks(folder: Path) -> Iterator[np.ndarray]:
    for part in encoded_images(folder):
        yield np.ascontiguousarray(decode(part.png).permute(0, 2, 3, 1).numpy())
