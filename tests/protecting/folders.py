"""Folders as owners have them: every format, mode and orientation, and files that are broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.randomness import stream

BROKEN = {"cut.jpg", "empty.png", "text.jpg", "header.webp", "folder.png"}


def picture(number: int, width: int, height: int) -> Image.Image:
    """Return an image of smooth random colours."""
    few = torch.randint(0, 256, (4, 4, 3), generator=stream(number, "picture"), dtype=torch.uint8)
    return Image.fromarray(few.numpy()).resize((width, height), Image.Resampling.BICUBIC)


def mixed_folder(folder: Path) -> Path:
    """Write one image of every kind, none square, and five broken ones; return the folder."""
    folder.mkdir(parents=True)
    image, exif = picture(0, 40, 25), Image.Exif()
    exif[0x0112] = 6
    see_through = image.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "plain.jpg", quality=90)
    image.save(folder / "turned.JPG", exif=exif, quality=90)
    image.save(folder / "plain.png")
    image.save(folder / "plain.webp", lossless=True)
    image.quantize(64).save(folder / "palette.png")
    image.quantize(64).save(folder / "still.gif")
    image.save(folder / "moving.gif", save_all=True, append_images=[picture(1, 40, 25)])
    image.convert("CMYK").save(folder / "print.jpeg")
    image.convert("1").save(folder / "bilevel.png")
    image.convert("L").save(folder / "grey.tif")
    see_through.save(folder / "alpha.png")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    return add_broken(folder)


def add_broken(folder: Path) -> Path:
    """Write five things that are called images and are none; return the folder."""
    picture(2, 64, 64).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:500])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "header.webp").write_bytes(b"RIFF\0\0\0\0NOPE" + bytes(50))
    (folder / "folder.png").mkdir()
    return folder
