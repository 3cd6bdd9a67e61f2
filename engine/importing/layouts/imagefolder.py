"""A folder of images: in class folders, or in one folder without labels.

An image's place in the clean data set is that of the file of its name, where the clean data set has files; else the
number that is its name, where all have one; else its place in the order of the names.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from engine.images.files import FORMATS
from engine.images.folders import SUFFIXES
from engine.importing.found import Found, ImportFault
from engine.protocols import ImageSet


def read(source: Path, clean: ImageSet) -> Found:
    """Read the images, which have the size of the clean ones and no lossy format."""
    files = sorted(file for file in source.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)
    if not 0 < len(files) <= len(clean):
        raise ImportFault(f"{source} holds {len(files):,} images, the clean data set {len(clean):,}")
    names = tuple(file.relative_to(source).as_posix() for file in files)
    folders = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    has_classes = "" not in folders and len(set(folders)) > 1
    class_names = tuple(sorted(set(folders))) if has_classes else ()
    labels = torch.tensor([class_names.index(folder) for folder in folders]) if has_classes else None
    images_u8 = torch.empty((len(files), *clean.images_u8.shape[1:]), dtype=torch.uint8)
    for row, file in enumerate(files):
        images_u8[row] = _decode(file, clean)
    return Found(
        source, "images", images_u8, labels=labels, places=_places(names, clean), class_names=class_names, names=names
    )


def _decode(file: Path, clean: ImageSet) -> torch.Tensor:
    height, width = clean.images_u8.shape[2:]
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.verify()  # the checksums of a PNG's pixels, which are not looked at when it is decoded
        with Image.open(file, formats=FORMATS) as image:
            if image.size != (width, height):
                raise ImportFault(
                    f"{file} has {image.width} x {image.height} pixels, the clean images {width} x {height}"
                )
            if image.format == "JPEG":
                raise ImportFault(f"{file} is a JPEG: part of the perturbation is lost; import the lossless images")
            pixels = np.array(image.convert("RGB"))
    except ImportFault:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them raise
        raise ImportFault(f"{file} cannot be read ({type(error).__name__}: {error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _places(names: tuple[str, ...], clean: ImageSet) -> torch.Tensor | None:
    stems = [PurePosixPath(name).stem for name in names]
    if clean.names:
        known = {str(PurePosixPath(name).with_suffix("")): place for place, name in enumerate(clean.names)}
        known |= {name: place for place, name in enumerate(clean.names)}
        found = [known.get(str(PurePosixPath(name).with_suffix(""))) for name in names]
        if len(known) and None not in found:
            return torch.tensor(found)
    if all(stem.isdecimal() and len(stem) < 12 for stem in stems):
        return torch.tensor([int(stem) for stem in stems])
    return None
