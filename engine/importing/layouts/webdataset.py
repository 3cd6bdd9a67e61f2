"""Tar files of ``KEY.png`` and ``KEY.cls``, as ``engine export`` writes them.

A key is an image's place in the clean data set.

Members are read where they lie; nothing is unpacked to a disk.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.importing.found import Found, ImportFault
from engine.protocols import ImageSet

MOST_BYTES = 2**26
"""Bytes of one member; the image of a clean data set has far less."""


def read(source: Path, clean: ImageSet) -> Found:
    """Read one tar file, or all of a folder in the order of their names."""
    files = sorted(source.glob("*.tar")) if source.is_dir() else [source]
    images: dict[str, torch.Tensor] = {}
    labels: dict[str, int] = {}
    for file in files:
        try:
            for key, ending, content in _members(file):
                if ending == "png":
                    if key in images or len(images) == len(clean):
                        raise ImportFault(f"image {key} is there twice, or there are more than {len(clean):,}")
                    images[key] = _decode(content, clean)
                elif ending == "cls":
                    labels[key] = _label(content)
        except ImportFault as fault:
            raise ImportFault(f"{file}: {fault}") from fault
        except Exception as error:  # damaged archives make their readers raise anything
            raise ImportFault(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    if not images:
        raise ImportFault(f"{source} holds no tar file with members KEY.png")
    if labels and set(labels) != set(images):
        raise ImportFault(f"{source} has {len(images):,} images and {len(labels):,} labels")
    numbered = all(key.isdecimal() and len(key) < 12 for key in images)
    return Found(
        source,
        "images",
        torch.stack(list(images.values())),
        labels=torch.tensor([labels[key] for key in images]) if labels else None,
        places=torch.tensor([int(key) for key in images]) if numbered else None,
    )


def _members(file: Path) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(file, "r:") as archive:
        for member in archive:
            key, _, ending = member.name.rpartition("/")[2].partition(".")
            if not member.isfile() or ending not in ("png", "cls"):
                continue
            if member.size > MOST_BYTES:
                raise ImportFault(f"{member.name} has an absurd size")
            stream = archive.extractfile(member)
            assert stream is not None  # it is a file
            yield key, ending, stream.read()
        end = archive.offset
    # tarfile takes a damaged header, or the end of the file, for the end of the archive.
    with file.open("rb") as whole:
        whole.seek(end)
        rest = whole.read()
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise ImportFault(f"cut off or damaged after {end:,} bytes")


def _label(content: bytes) -> int:
    label = int(content.decode("ascii"))
    if not 0 <= label < 2**31:
        raise ImportFault(f"a label is {label}, which is no class")
    return label


def _decode(content: bytes, clean: ImageSet) -> torch.Tensor:
    height, width = clean.images_u8.shape[2:]
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.verify()  # the checksums of its pixels, which are not looked at when it is decoded
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.size != (width, height):
            raise ImportFault(f"an image has {image.width} x {image.height} pixels, the clean ones {width} x {height}")
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
