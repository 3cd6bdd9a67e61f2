"""Tar files of images and labels, as WebDataset and Hugging Face ``datasets`` stream them.

An image is ``000123.png``, its label, in decimals, ``000123.cls``, and ``000123.json`` says whether it is perturbed,
its class and its original name. The key is its place in the source data set.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts import encoded_images
from engine.artifacts.files import atomic_directory
from engine.artifacts.manifest import FILE

MOST = 1_000
"""Images in one tar file."""
BYTES = 2**28
"""Most bytes of images in one tar file."""

Sample = tuple[str, dict[str, bytes]]


def write(folder: Path, manifest: dict[str, Any], target: Path) -> None:
    """Write the tar files, and the manifest beside them."""
    with atomic_directory(target) as partial:
        archive, number, images, size = None, 0, 0, 0
        for key, members in _samples(folder, manifest):
            if archive is None or images == MOST or size >= BYTES:
                if archive is not None:
                    archive.close()
                archive = tarfile.open(partial / f"train-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
                number, images, size = number + 1, 0, 0
            for ending, content in members.items():
                member = tarfile.TarInfo(f"{key}.{ending}")  # no time, no owner: the same bytes every time
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                size += len(content)
            images += 1
        if archive is not None:
            archive.close()
        (partial / FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _samples(folder: Path, manifest: dict[str, Any]) -> Iterator[Sample]:
    for part in encoded_images(folder):
        names: Sequence[str | None] = part.names or [None] * len(part)
        for png, label, place, perturbed, name in zip(
            part.png, part.labels, part.places, part.perturbed, names, strict=True
        ):
            about = {"index": place, "class": manifest["class_names"][label], "perturbed": perturbed, "name": name}
            described = json.dumps(about, sort_keys=True).encode()
            yield f"{place:06d}", {"cls": str(label).encode(), "json": described, "png": png}
