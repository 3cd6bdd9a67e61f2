"""The poisoned data set as an artifact: what an attacker releases, and what is known of it.

A folder of
    ``train.parquet``      PNG-encoded images, labels, indices and perturbed flags, in the schema that
                           Hugging Face ``datasets`` decodes as images, ``ROWS`` images a row group; an
                           index is the image's place in the data set, where none may be withheld;
    ``delta.safetensors``  the perturbation in eight-bit levels, int8, [N, C, H, W] or [classes, C, H, W];
    ``preview.safetensors`` one image per class, clean and poisoned, uint8 [classes, C, H, W];
    ``manifest.json``      source, attack, budget, what was measured, and every file's checksum.
The same inputs give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import ArtifactError, atomic_directory, read_json, sha256
from engine.protocols import ImageSet, Poison

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

FORMAT = 1
ROWS = 1_000
"""Images in one row group of the table: what its writer and its readers hold encoded at a time."""

Encoded = tuple[list[bytes], list[int]]
"""Some images as PNG files, and their labels."""


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


def write_poison(
    target: Path, *, clean: ImageSet, released: ImageSet, poison: Poison, perturbed: Tensor, about: dict[str, Any]
) -> None:
    """Write the artifact atomically, without the images that the poison withholds.

    Shapes: clean and released N images, those that are withheld too; perturbed bool [N]; poison.noise int8,
        in grey levels.
    ``about`` is what the manifest says of source and attack; sizes and differences are measured here.
    """
    import torch
    from safetensors.torch import save_file

    rows, about = torch.arange(len(clean)), {**about, **_of_poison(poison)}
    if poison.withheld is not None:
        rows = (~poison.withheld).nonzero().squeeze(1)
        clean, released, perturbed = clean[rows], released[rows], perturbed[rows]
    with atomic_directory(target) as folder:
        _write_images(folder / "train.parquet", released, perturbed, rows)
        save_file({"levels": poison.noise.contiguous()}, folder / "delta.safetensors")
        first = [int((clean.labels == k).nonzero()[0]) for k in clean.labels.unique()]
        save_file(
            {"clean": clean.images_u8[first].contiguous(), "poisoned": released.images_u8[first].contiguous()},
            folder / "preview.safetensors",
        )
        difference = (released.images_u8.int() - clean.images_u8.int()).abs().flatten(1)
        manifest = {
            "format": FORMAT,
            **about,
            "images": len(released),
            "image_shape": list(released.images_u8.shape[1:]),
            "class_names": list(released.class_names),
            "perturbed": int(perturbed.sum()),
            "max_difference_levels": int(difference.max()),
            "mean_difference_levels": round(difference.double().mean().item(), 6),
            "files": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _of_poison(poison: Poison) -> dict[str, Any]:
    """Return what the manifest says of the poison itself; ``withheld`` only where something is."""
    about: dict[str, Any] = {"granularity": poison.granularity, "image_views": poison.image_views}
    return about if poison.withheld is None else {**about, "withheld": int(poison.withheld.sum())}


def _write_images(file: Path, released: ImageSet, perturbed: Tensor, rows: Tensor) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(released.class_names)
    # Zstandard would only spend time: PNG bytes do not shrink.
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        for start in range(0, len(released), ROWS):
            part = slice(start, start + ROWS)
            columns = {
                "image": [{"bytes": _png(image), "path": None} for image in released.images_u8[part]],
                "label": released.labels[part].tolist(),
                "index": rows[part].tolist(),
                "perturbed": perturbed[part].tolist(),
            }
            writer.write_table(pa.table(columns, schema=schema))


def _schema(class_names: tuple[str, ...]) -> pa.Schema:
    import pyarrow as pa

    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        "index": {"dtype": "int64", "_type": "Value"},
        "perturbed": {"dtype": "bool", "_type": "Value"},
    }
    return pa.schema(
        [("image", image_type), ("label", pa.int64()), ("index", pa.int64()), ("perturbed", pa.bool_())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def _png(image_u8: Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image_u8.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a poison.

    Raises:
        ArtifactError: the manifest is missing or of another format, or a file is missing or damaged.
    """
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise ArtifactError(f"{folder} has format {manifest.get('format')!r}; this version reads format {FORMAT}")
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; run `dvc checkout` or generate the poison again")
        if sha256(file) != expected:
            raise ArtifactError(
                f"{file} differs from the checksum in its manifest: it is damaged or was edited; "
                "run `dvc checkout --force` or generate the poison again"
            )
    return manifest


def encoded_images(folder: Path) -> Iterator[Encoded]:
    """Yield the released images in order, as PNG files, never more than ``ROWS`` of them at a time.

    Checksums are what ``read_manifest`` checks.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / "train.parquet") as table:
        for rows in table.iter_batches(batch_size=ROWS, columns=["image.bytes", "label"]):
            yield rows.column("image").field("bytes").to_pylist(), rows.column("label").to_pylist()


def read_images(folder: Path, manifest: dict[str, Any]) -> ImageSet:
    """Read what an attacker releases: all images, decoded, and their labels.

    Beside them only ``ROWS`` images are held. Checksums are what ``read_manifest`` checks.
    """
    import torch

    images_u8 = torch.empty((manifest["images"], *manifest["image_shape"]), dtype=torch.uint8)
    labels: list[int] = []
    for encoded, part in encoded_images(folder):
        images_u8[len(labels) : len(labels) + len(part)] = _decode(encoded)
        labels += part
    return ImageSet(images_u8, torch.tensor(labels), tuple(manifest["class_names"]))


def read_some(folder: Path, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Read some released images, and each one's place in the data set; no other image is decoded.

    Checksums are what ``read_manifest`` checks.

    Shapes: rows int64 [M], in rising order; images uint8 [M, C, H, W], places int64 [M].
    """
    import pyarrow.parquet as pq
    import torch

    images, places = [], []
    with pq.ParquetFile(folder / "train.parquet") as table:
        first = 0
        for group in range(table.num_row_groups):
            last = first + table.metadata.row_group(group).num_rows
            here = rows[(rows >= first) & (rows < last)] - first
            if len(here):
                part = table.read_row_group(group, columns=["image.bytes", "index"]).take(here.numpy())
                images.append(_decode(part["image"].combine_chunks().field("bytes").to_pylist()))
                places += part["index"].to_pylist()
            first = last
    return torch.cat(images), torch.tensor(places)


def _decode(encoded: list[bytes]) -> Tensor:
    import numpy as np
    import torch
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def read_poison(folder: Path) -> ReleasedPoison:
    """Read a poison, all of it.

    Raises:
        ArtifactError: see ``read_manifest``.
    """
    import pyarrow.parquet as pq
    import torch
    from safetensors.torch import load_file

    manifest = read_manifest(folder)
    table = pq.read_table(folder / "train.parquet", columns=["index", "perturbed"])
    levels = load_file(folder / "delta.safetensors")["levels"]
    return ReleasedPoison(
        read_images(folder, manifest),
        torch.tensor(table["index"].to_pylist()),
        torch.tensor(table["perturbed"].to_pylist()),
        Poison(levels, manifest["granularity"], manifest["image_views"], unit=1 / 255),
        manifest,
    )
