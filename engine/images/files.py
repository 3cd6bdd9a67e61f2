"""Image files of any common format and mode, decoded to eight-bit RGB of one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine.images.presence import DatasetFault
from engine.protocols import Progress

DEEP = 65535  # the highest level of sixteen-bit grey, which Pillow opens as I;16 or I
WORKERS = 8
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""What files are read as. Pillow goes by the content and knows more: for PostScript it would start another program."""


def decode(files: Sequence[Path], size: int, progress: Progress | None = None) -> Tensor:
    """Decode files in parallel, in the order given: uint8 [N, 3, size, size].

    Raises:
        DatasetFault: some files are not images that can be read; every one is named.
    """
    Image.init()  # registers all formats here, before threads race to do it
    images_u8 = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    pixels = images_u8.numpy()

    def fill(row: int) -> str | None:
        try:
            pixels[row] = decode_file(files[row], size)
        except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever a broken file makes them raise
            return f"  {files[row]}: {type(error).__name__}: {error}"
        return None

    faults = []
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        for done, fault in enumerate(pool.map(fill, range(len(files))), start=1):
            if fault:
                faults.append(fault)
            if progress:
                progress(done, len(files), "images decoded")
    if faults:
        raise DatasetFault(
            "\n".join([f"{len(faults)} of {len(files)} image files cannot be read; repair or remove:", *faults])
        )
    return images_u8


def decode_file(file: Path, size: int) -> np.ndarray:
    """Decode one file: uint8 [3, size, size].

    The EXIF orientation is applied, the shorter side becomes ``size`` (Pillow's antialiased bilinear filter), the
    centre is cut out. Of several frames the first counts.

    Deviates: from torchvision's ImageFolder, which ignores the EXIF orientation, drops transparency (here
        it is laid over white) and cuts sixteen-bit grey off at 255 (here it is scaled).
    Source: torchvision's Resize and CenterCrop for the rounding of sides and offsets.
    """
    with Image.open(file, formats=FORMATS) as opened:
        image = upright_rgb(opened)
    short, long = sorted(image.size)
    scaled = int(size * long / short)
    width, height = (size, scaled) if image.width <= image.height else (scaled, size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def upright_rgb(opened: Image.Image) -> Image.Image:
    """Return an opened image of any mode as eight-bit RGB, at its full size, the EXIF orientation applied."""
    return _to_rgb(ImageOps.exif_transpose(opened))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _deep_to_rgb(image)
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range; save the image with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > DEEP:
        raise ValueError(f"pixels range from {levels.min()} to {levels.max()}, expected sixteen bits")
    return Image.fromarray((levels * 255 / DEEP).round().astype(np.uint8)).convert("RGB")
