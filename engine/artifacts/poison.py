"""The poisoned data set as an artifact: what an attacker releases, and what is known of it.

A folder of
    ``train.parquet``      PNG-encoded images, labels, indices and perturbed flags, in the schema that
                           Hugging Face ``datasets`` decodes as images;
    ``delta.safetensors``  the perturbation in eight-bit levels, int8, [N, C, H, W] or [classes, C, H, W];
    ``preview.safetensors`` one image per class, clean and poisoned, uint8 [classes, C, H, W];
    ``manifest.json``      source, attack, budget, what was measured, and every file's checksum.
The same inputs give the same bytes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import ArtifactError, atomic_directory, read_json, sha256
from engine.protocols import ImageSet, Poison

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

FORMAT = 1


@dataclass(frozen=True)
class ReleasedPoison:
    """A poisoned training set, read back.

    Shapes: perturbed bool [N]; poison.delta float, in [0, 1] pixel units.
    """

    images: ImageSet
    perturbed: Tensor
    poison: Poison
    manifest: dict[str, Any]


def write_poison(
    target: Path, *, clean: ImageSet, released: ImageSet, levels: Tensor, perturbed: Tensor, about: dict[str, Any]
) -> None:
    """Write the artifact atomically.

    Shapes: levels int8 [N, C, H, W] or [classes, C, H, W]; perturbed bool [N].
    ``about`` is what the manifest says of source and attack; sizes and differences are measured here.
    """
    import pyarrow.parquet as pq
    from safetensors.torch import save_file

    with atomic_directory(target) as folder:
        # Zstandard would only spend time: PNG bytes do not shrink.
        pq.write_table(_table(released, perturbed), folder / "train.parquet", compression="none")
        save_file({"levels": levels.contiguous()}, folder / "delta.safetensors")
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


def _table(released: ImageSet, perturbed: Tensor) -> pa.Table:
    import pyarrow as pa

    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": _png(image), "path": None} for image in released.images_u8]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(released.class_names), "_type": "ClassLabel"},
        "index": {"dtype": "int64", "_type": "Value"},
        "perturbed": {"dtype": "bool", "_type": "Value"},
    }
    schema = pa.schema(
        [("image", image_type), ("label", pa.int64()), ("index", pa.int64()), ("perturbed", pa.bool_())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    columns = {
        "image": images,
        "label": released.labels.tolist(),
        "index": list(range(len(released))),
        "perturbed": perturbed.tolist(),
    }
    return pa.table(columns, schema=schema)


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


def read_poison(folder: Path) -> ReleasedPoison:
    """Read a poison, all of it.

    Raises:
        ArtifactError: see ``read_manifest``.
    """
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    manifest = read_manifest(folder)
    table = pq.read_table(folder / "train.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(table["label"].to_pylist())
    levels = load_file(folder / "delta.safetensors")["levels"]
    return ReleasedPoison(
        ImageSet(images, labels, tuple(manifest["class_names"])),
        torch.tensor(table["perturbed"].to_pylist()),
        Poison(levels.float() / 255, manifest["granularity"], manifest["image_views"]),
        manifest,
    )
