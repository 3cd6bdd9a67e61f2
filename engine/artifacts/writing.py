"""How a poisoned data set is written: in shards, part by part, measured on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.card import card
from engine.artifacts.encoding import Encoded, encode, released_schema, row_group, table_of
from engine.artifacts.files import atomic_directory, sha256
from engine.artifacts.levels import LevelsWriter
from engine.artifacts.manifest import FILE, FORMAT
from engine.protocols import ImageSet, Poison

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from torch import Tensor

SURROGATE = "surrogate.safetensors"
SHARD = 2**28
"""Most bytes of decoded images, and of noise, in one file of the artifact."""


@dataclass(frozen=True)
class Part:
    """Consecutive images of a data set, before and after an attack; what is withheld of them is not released.

    Shapes: released_u8 uint8 [M, 3, H, W], as clean has them; perturbed bool [M]; withheld bool [M], where something
        is; levels int8 [M, 3, H, W], where the noise is sample-wise.
    """

    clean: ImageSet
    released_u8: Tensor
    perturbed: Tensor
    levels: Tensor | None = None
    withheld: Tensor | None = None


def write_poison(
    target: Path, *, clean: ImageSet, released: ImageSet, poison: Poison, perturbed: Tensor, about: dict[str, Any]
) -> None:
    """Write the artifact of a data set that is held whole, see ``write_parts``.

    Shapes: clean and released N images, those that are withheld too; perturbed bool [N]; poison.noise int8,
        in grey levels.
    """
    is_class_wise = poison.granularity == "class"
    parts = (
        Part(
            clean[rows],
            released.images_u8[rows],
            perturbed[rows],
            None if is_class_wise else poison.noise[rows],
            None if poison.withheld is None else poison.withheld[rows],
        )
        for rows in row_groups(clean)
    )
    about = {**about, "granularity": poison.granularity, "image_views": poison.image_views}
    levels = poison.noise if is_class_wise else None
    write_parts(target, parts, about=about, class_levels=levels, surrogate=poison.surrogate)


def row_groups(images: ImageSet) -> Iterator[slice]:
    """Cut a data set into parts of the size that the artifact is written in."""
    step = row_group(images.images_u8.shape[1:])
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def write_parts(
    target: Path,
    parts: Iterable[Part],
    *,
    about: dict[str, Any],
    class_levels: Tensor | None = None,
    surrogate: dict[str, Tensor] | None = None,
) -> None:
    """Write the artifact atomically, part by part, without the images that the poison withholds.

    Shapes: class_levels int8 [classes, 3, H, W], where the noise is class-wise.
    ``about`` is what the manifest says of source and attack; sizes and differences are measured here. ``surrogate`` are
    the weights of the network that the noise was learnt on.
    """
    from safetensors.torch import save_file

    with atomic_directory(target) as folder, _Writer(folder) as writer:
        for part in parts:
            writer.add(part)
        writer.close()
        if class_levels is not None:
            save_file({"levels": class_levels.contiguous()}, folder / _delta(0))
        save_file(writer.preview(), folder / "preview.safetensors")
        if surrogate:
            save_file({name: tensor.contiguous() for name, tensor in surrogate.items()}, folder / SURROGATE)
        manifest = {"format": FORMAT, **about, **writer.measured()}
        (folder / "README.md").write_text(card(manifest))
        manifest["files"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        (folder / FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


class _Writer:
    """The shards of an artifact while they are written, and what is measured on the way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table: pq.ParquetWriter | None = None
        self.levels: LevelsWriter | None = None
        self.shard = self.in_shard = self.seen = self.images = self.perturbed = self.largest = self.total = 0
        self.withheld: int | None = None
        self.first: dict[int, tuple[Tensor, Tensor]] = {}
        self.shape: tuple[int, ...] = ()
        self.class_names: tuple[str, ...] = ()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, part: Part) -> None:
        """Append some images."""
        import torch

        clean, released_u8, perturbed = part.clean, part.released_u8, part.perturbed
        rows = torch.arange(self.seen, self.seen + len(clean))
        self.shape, self.class_names = tuple(released_u8.shape[1:]), clean.class_names
        self._open_shard(len(clean))
        self.seen += len(clean)
        self.in_shard += len(clean)
        if part.levels is not None:
            self.levels = self.levels or LevelsWriter(self.folder / _delta(self.shard))
            self.levels.add(part.levels)
        if part.withheld is not None:
            kept = (~part.withheld).nonzero().squeeze(1)
            self.withheld = (self.withheld or 0) + len(clean) - len(kept)
            clean, released_u8, perturbed, rows = clean[kept], released_u8[kept], perturbed[kept], rows[kept]
        self._measure(clean, released_u8, perturbed)
        if self.table is not None and len(clean):
            labels, places, flags = (column.tolist() for column in (clean.labels, rows, perturbed))
            encoded = Encoded(encode(released_u8), labels, places, flags, clean.names)
            self.table.write_table(table_of(encoded, clean.class_names))

    def _open_shard(self, count: int) -> None:
        """Begin a shard where there is none, or where the one at hand has no room for so many images."""
        import pyarrow.parquet as pq

        if self.table is not None and (self.in_shard + count) * math.prod(self.shape) > SHARD:
            self.close()
        if self.table is None:
            file = self.folder / f"train-{self.shard:05d}.parquet"
            # Zstandard would only spend time: PNG bytes do not shrink.
            self.table = pq.ParquetWriter(file, released_schema(self.class_names), compression="none")

    def close(self) -> None:
        """End a shard."""
        for open_file in (self.table, self.levels):
            if open_file is not None:
                open_file.close()
        self.table = self.levels = None
        self.in_shard, self.shard = 0, self.shard + 1

    def _measure(self, clean: ImageSet, released_u8: Tensor, perturbed: Tensor) -> None:
        # In eight bits: a wider type would double what is held.
        difference = clean.images_u8.maximum(released_u8) - clean.images_u8.minimum(released_u8)
        self.images += len(clean)
        self.perturbed += int(perturbed.sum())
        self.largest = max(self.largest, int(difference.max()) if len(clean) else 0)
        self.total += int(difference.numpy().sum())  # torch would make 64-bit integers of all of them first
        for label in clean.labels.unique().tolist():
            if label not in self.first:
                row = int((clean.labels == label).nonzero()[0])
                self.first[label] = clean.images_u8[row].clone(), released_u8[row].clone()

    def preview(self) -> dict[str, Tensor]:
        """Return one image per class, before and after."""
        import torch

        pairs = [self.first[label] for label in sorted(self.first)]
        return {name: torch.stack([pair[at] for pair in pairs]) for at, name in enumerate(("clean", "poisoned"))}

    def measured(self) -> dict[str, Any]:
        """Return what the manifest says of the released images."""
        found = {
            "images": self.images,
            "image_shape": list(self.shape),
            "class_names": list(self.class_names),
            "perturbed": self.perturbed,
            "max_difference_levels": self.largest,
            "mean_difference_levels": round(self.total / (self.images * math.prod(self.shape)), 6),
        }
        return found if self.withheld is None else {**found, "withheld": self.withheld}


def _delta(shard: int) -> str:
    return f"delta-{shard:05d}.safetensors"
