"""Images of a poison to look at: chosen evenly from its classes, read without decoding the others.

Shapes: n images, at most ``MOST``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.artifacts.poison import encoded_images
from engine.randomness import stream
from engine.reporting.results import PoisonFacts, Results
from engine.study import poison_path

if TYPE_CHECKING:
    from torch import Tensor

MOST = 1_000
"""Images of a poison that are looked at."""


def choose(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Choose perturbed images, evenly from the classes: their labels, rows in the table, places in the data set.

    In a random order, so that the first of them are a sample too.
    """
    import pyarrow.parquet as pq
    import torch

    from engine.analysis import ranks_in_class

    table = pq.read_table(folder / "train.parquet", columns=["label", "index", "perturbed"])
    labels, places, perturbed = (torch.tensor(table[name].to_pylist()) for name in ("label", "index", "perturbed"))
    candidates = perturbed.nonzero().squeeze(1)
    draws = stream(0, "report", "perturbations")
    candidates = candidates[torch.randperm(len(candidates), generator=draws)]
    rows = candidates[ranks_in_class(labels[candidates], draws).argsort(stable=True)[:MOST]]
    return labels[rows], rows, places[rows]


def noise_at(folder: Path, facts: PoisonFacts, labels: Tensor, places: Tensor) -> Tensor:
    """Return the noise of some images in grey levels, int8; of the file, only their pages are read."""
    from safetensors import safe_open

    wanted = labels if (facts.manifest or {})["granularity"] == "class" else places
    with safe_open(folder / "delta.safetensors", framework="pt") as file:
        noise: Tensor = file.get_tensor("levels")[wanted]
    return noise


def clean_images_at(results: Results, facts: PoisonFacts, places: Tensor) -> Tensor | None:
    """Return the originals of some images, or None where no clean poison of the same data set is there."""
    reference = results.poisons[results.reference].manifest if results.reference else None
    if not reference or not facts.manifest or reference["dataset"]["checksum"] != facts.manifest["dataset"]["checksum"]:
        return None
    return read_images_at(poison_path(results.study.dataset, str(results.reference)), places)


def read_images_at(folder: Path, rows: Tensor) -> Tensor:
    """Decode some rows of a table: uint8 [n, 3, H, W]."""
    import torch
    from PIL import Image

    wanted, found, first = set(rows.tolist()), {}, 0
    for encoded, _ in encoded_images(folder):
        for row in wanted.intersection(range(first, first + len(encoded))):
            found[row] = np.asarray(Image.open(io.BytesIO(encoded[row - first])))
        first += len(encoded)
    return torch.from_numpy(np.stack([found[row] for row in rows.tolist()])).permute(0, 3, 1, 2)
