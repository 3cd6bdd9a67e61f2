"""The poisoned data set as an artifact: what an attacker releases, and what is known of it.

A folder of
    ``train-00000.parquet``, ...    PNG-encoded images, labels, indices and perturbed flags, in the schema that
                                    Hugging Face ``datasets`` decodes as images; an index is the image's place in
                                    the data set, where none may be withheld;
    ``delta-00000.safetensors``, ...  the perturbation in eight-bit levels, int8: of as many images of the data set
                                    as a shard has, [M, C, H, W], or, class-wise, in one file, [classes, C, H, W];
    ``surrogate.safetensors``       the weights of the network that the noise was learnt on last, where there is one;
    ``preview.safetensors``         one image per class, clean and poisoned, uint8 [classes, C, H, W];
    ``README.md``                   the data card;
    ``manifest.json``               source, attack, budget, what was measured, and every file's checksum.
The same inputs give the same bytes. Written part by part, read a row group or a shard's noise at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.encoding import Encoded, decode
from engine.artifacts.manifest import read_manifest
from engine.protocols import ImageSet, Poison

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from torch import Tensor


@dataclass(frozen=True)
class ReleasedPoison:
    """A poisoned training set, read back.

    Shapes: rows int64 [N], each image's place in the data set; perturbed bool [N]; poison.noise int8, in grey
        levels, with rows for withheld images too where it is sample-wise.
    """

    images: ImageSet
    rows: Tensor
    perturbed: Tensor
    poison: Poison
    manifest: dict[str, Any]


def encoded_images(folder: Path) -> Iterator[Encoded]:
    """Yield the released images in order, as PNG files, a row group at a time.

    Checksums are what ``read_manifest`` checks.
    """
    for table, group in _row_groups(folder):
        yield Encoded.of(table.read_row_group(group))


def _row_groups(folder: Path) -> Iterator[tuple[pq.ParquetFile, int]]:
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("train-*.parquet")):
        with pq.ParquetFile(file) as table:
            for group in range(table.num_row_groups):
                yield table, group


def read_images(folder: Path, manifest: dict[str, Any]) -> ImageSet:
    """Read what an attacker releases: all images, decoded, and their labels.

    Beside them only a row group is held. Checksums are what ``read_manifest`` checks.
    """
    import torch

    images_u8 = torch.empty((manifest["images"], *manifest["image_shape"]), dtype=torch.uint8)
    labels: list[int] = []
    names: list[str] = []
    for part in encoded_images(folder):
        images_u8[len(labels) : len(labels) + len(part)] = decode(part.png)
        labels += part.labels
        names += part.names
    return ImageSet(images_u8, torch.tensor(labels), tuple(manifest["class_names"]), tuple(names))


def read_some(folder: Path, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Read some released images, and each one's place in the data set; no other image is decoded.

    Checksums are what ``read_manifest`` checks.

    Shapes: rows int64 [M], in rising order; images uint8 [M, C, H, W], places int64 [M].
    """
    import torch

    images, places = [], []
    first = 0
    for table, group in _row_groups(folder):
        last = first + table.metadata.row_group(group).num_rows
        here = rows[(rows >= first) & (rows < last)] - first
        if len(here):
            part = Encoded.of(table.read_row_group(group).take(here.numpy()))
            images.append(decode(part.png))
            places += part.places
        first = last
    return torch.cat(images), torch.tensor(places)


def read_levels(folder: Path) -> Iterator[Tensor]:
    """Yield the perturbation in grey levels, a shard at a time: int8 [M, C, H, W], or all classes at once."""
    from safetensors.torch import load_file

    for file in sorted(folder.glob("delta-*.safetensors")):
        yield load_file(file)["levels"]


def read_poison(folder: Path) -> ReleasedPoison:
    """Read a poison, all of it.

    Raises:
        ArtifactError: see ``read_manifest``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    manifest = read_manifest(folder)
    files = sorted(folder.glob("train-*.parquet"))
    table = pa.concat_tables([pq.read_table(file, columns=["index", "perturbed"]) for file in files])
    levels = torch.cat(list(read_levels(folder)))
    return ReleasedPoison(
        read_images(folder, manifest),
        torch.tensor(table["index"].to_pylist()),
        torch.tensor(table["perturbed"].to_pylist()),
        Poison(levels, manifest["granularity"], manifest["image_views"], unit=1 / 255),
        manifest,
    )
