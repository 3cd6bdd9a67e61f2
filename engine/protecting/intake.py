"""Intake: an owner's folder of images of any size and format, with what is wrong with some of them.

The working image of a file is the whole image at ``size`` x ``size`` pixels, its aspect changed: noise that is made
there maps onto the whole image, and none of it is lost to a crop.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.errors import EngineError
from engine.images import FORMATS, SUFFIXES, upright_rgb
from engine.progress import progress_of

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = 0x0112  # the EXIF tag
FAR_TOO_MANY = 0.5
"""The share of broken files above which something else is wrong: the folder, a disk, a download."""


class IntakeFault(EngineError):
    """A folder cannot be taken in as it is."""


@dataclass(frozen=True)
class Original:
    """One image that can be read.

    Units: width and height in pixels, upright.
    """

    name: str
    """The path below the owner's folder, with slashes."""
    sha256: str
    width: int
    height: int
    orientation: int
    """The EXIF orientation that was applied; 1 where there was none to apply."""
    frames: int
    is_transparent: bool


@dataclass(frozen=True)
class Broken:
    """A file that is called an image and cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Intake:
    """A folder, taken in.

    Shapes: working_u8 uint8 [N, 3, S, S], a row an original; labels int64 [N], or None where the folder names no
    classes; class_names holds one name a class then, and nothing otherwise.
    """

    folder: Path
    originals: tuple[Original, ...]
    broken: tuple[Broken, ...]
    ignored: tuple[str, ...]
    """Files that are not called images."""
    working_u8: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return a checksum, in hexadecimal, of all that can be read, its names and the working size."""
        digest = hashlib.sha256(str(self.working_u8.shape[-1]).encode())
        for original in self.originals:
            digest.update(f"\n{original.name} {original.sha256}".encode())
        return digest.hexdigest()


def take_in(folder: Path, size: int) -> Intake:
    """Read every image of a folder and of those below it, one at a time; broken ones are listed, not fatal.

    The names of the first folders are the classes where every readable image lies in one and there are two or more.

    Raises:
        IntakeFault: there is no such folder, it holds no image, or more than half of its image files are broken.
    """
    import torch

    names, broken, ignored = find_images(folder)
    originals, rows = [], []
    Image.init()
    with progress_of(f"read {folder.name}") as progress:
        for done, name in enumerate(names, start=1):
            try:
                original, working = read(folder, name, size)
            except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever a broken file makes them raise
                broken.append(Broken(name, f"{type(error).__name__}: {error}".replace(str(folder), "FOLDER")))
            else:
                originals.append(original)
                rows.append(torch.from_numpy(working))
            progress(done, len(names), "images")
    _require_images(folder, len(originals), broken)
    class_names = classes_of([original.name for original in originals])
    labels = [class_names.index(original.name.split("/")[0]) for original in originals] if class_names else None
    return Intake(
        folder,
        tuple(originals),
        tuple(sorted(broken, key=lambda each: each.name)),
        tuple(ignored),
        torch.stack(rows),
        None if labels is None else torch.tensor(labels),
        class_names,
    )


def find_images(folder: Path) -> tuple[list[str], list[Broken], list[str]]:
    """Return the names of image files, folders that are called like images and hold none, and other files.

    Images come in the order in which a folder of class folders is read: by first folder, then by the rest.

    Raises:
        IntakeFault: there is no such folder.
    """
    if not folder.is_dir():
        raise IntakeFault(f"there is no folder {folder.absolute()}; name the folder that holds the images")
    names: list[str] = []
    others: list[str] = []
    image_folders: list[str] = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        is_image = path.suffix.lower() in SUFFIXES
        if path.is_dir():
            image_folders += [name] if is_image else []
        else:
            (names if is_image else others).append(name)
    empty = [each for each in image_folders if not any(name.startswith(f"{each}/") for name in names)]
    broken = [Broken(name, "is a folder, not an image file") for name in empty]
    return sorted(names, key=lambda name: name.partition("/")[::2]), broken, sorted(others)


def read(folder: Path, name: str, size: int) -> tuple[Original, np.ndarray]:
    """Return what is known of one image, and its working image: uint8 [3, size, size]."""
    file = folder / name
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with Image.open(file, formats=FORMATS) as opened:
        tag = opened.getexif().get(ORIENTATION)
        orientation = tag if isinstance(tag, int) and tag in range(1, 9) else 1
        frames, is_transparent = getattr(opened, "n_frames", 1), opened.has_transparency_data
        image = upright_rgb(opened)
    return Original(name, digest, *image.size, orientation, frames, is_transparent), working_image(image, size)


def working_image(image: Image.Image, size: int) -> np.ndarray:
    """Return the whole of an image at a size, its aspect changed: uint8 [3, size, size], antialiased, bilinear."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image).transpose(2, 0, 1)


def classes_of(names: list[str]) -> tuple[str, ...]:
    """Return the classes that names of images say, sorted; none where an image lies in no folder, or all in one."""
    if not all("/" in name for name in names):
        return ()
    found = sorted({name.split("/")[0] for name in names})
    return tuple(found) if len(found) > 1 else ()


def _require_images(folder: Path, readable: int, broken: list[Broken]) -> None:
    listed = "\n".join(f"  {each.name}: {each.reason}" for each in broken)
    if not readable and not broken:
        endings = " ".join(SUFFIXES)
        raise IntakeFault(f"{folder.absolute()} holds no image; known endings: {endings}")
    total = readable + len(broken)
    if len(broken) > FAR_TOO_MANY * total:
        raise IntakeFault(
            f"{len(broken)} of {total} image files in {folder.absolute()} cannot be read, more than half: is this the "
            f"right folder, and was it copied whole?\n{listed}"
        )
