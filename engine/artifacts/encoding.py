"""Released images as rows of a Parquet table: PNG files, labels, places, flags, names."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

ROWS = 1_000
"""Most images in one row group of the table: what its writer and its readers hold encoded at a time."""
ROW_GROUP = 2**25
"""Most bytes of decoded images in one row group."""
WORKERS = 8
MANY = 64 * 1024
"""Bytes of an image from which encoding it in a thread costs less than handing it over."""


@dataclass(frozen=True)
class Encoded:
    """Some released images as PNG files; each one's label, its place in the data set, whether noise was added to it.

    ``names`` are the original files, relative to the data set's folder, as posix paths; empty where it has no files.
    """

    png: list[bytes]
    labels: list[int]
    places: list[int]
    perturbed: list[bool]
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Return the rows of a table."""
        image = table["image"].combine_chunks()
        names = image.field("path").to_pylist()
        labels, places, perturbed = (table[name].to_pylist() for name in ("label", "index", "perturbed"))
        return cls(image.field("bytes").to_pylist(), labels, places, perturbed, names if None not in names else ())


def row_group(shape: Sequence[int]) -> int:
    """Return how many images of a shape form a row group."""
    return max(1, min(ROWS, ROW_GROUP // math.prod(shape)))


def table_of(images: Encoded, class_names: tuple[str, ...]) -> pa.Table:
    """Return images as a table."""
    import pyarrow as pa

    names: Sequence[str | None] = images.names or [None] * len(images)
    columns = {
        "image": [{"bytes": png, "path": name} for png, name in zip(images.png, names, strict=True)],
        "label": images.labels,
        "index": images.places,
        "perturbed": images.perturbed,
    }
    return pa.table(columns, schema=released_schema(class_names))


def released_schema(class_names: tuple[str, ...]) -> pa.Schema:
    """Return the table's columns, and in its metadata how Hugging Face ``datasets`` reads them."""
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


def encode(images_u8: Tensor) -> list[bytes]:
    """Return images [M, 3, H, W] as PNG files, large ones in several threads."""
    pixels = images_u8.permute(0, 2, 3, 1).contiguous().numpy()
    if pixels[:1].nbytes < MANY:
        return [to_png(image) for image in pixels]
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(to_png, pixels))


def to_png(pixels: np.ndarray) -> bytes:
    """Return pixels, uint8 [H, W, 3], as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def decode(encoded: Sequence[bytes]) -> Tensor:
    """Return PNG files of one size as images, uint8 [M, 3, H, W]."""
    import numpy as np
    import torch
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
