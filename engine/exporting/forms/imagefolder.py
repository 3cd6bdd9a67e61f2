"""One folder a class, as torchvision's ImageFolder and most programs read images.

Images are the artifact's own PNG files, byte for byte. They keep the names of their originals; the ending becomes .png,
which is lossless. Where data sets have no files, images are called by their place in the data set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from engine.artifacts import ArtifactError, Encoded, encoded_images
from engine.artifacts.files import atomic_directory
from engine.artifacts.manifest import FILE

README = """\
# {name}, a poisoned copy of {dataset}, as a folder of images

{images:,} images of {height} x {width} pixels. The folders are the classes; labels are those of the source.

Images are lossless PNG: where an original's name ended otherwise, its ending was replaced, and where that name was
another image's, `.png` was put behind the whole name. They have the size at which the poison was made: an orientation
that an original's EXIF data asked for was applied, and no metadata is left. Saving them lossily takes away part of the
perturbation.

`{file}` tells how they were made.
"""


def write(folder: Path, manifest: dict[str, Any], target: Path) -> None:
    """Write the folder.

    Raises:
        ArtifactError: the name of a class cannot be that of a folder.
    """
    classes = [_folder(name) for name in manifest["class_names"]]
    if len({name.casefold() for name in classes}) < len(classes):
        raise ArtifactError(f"names of classes differ in case alone and cannot all be folders: {', '.join(classes)}")
    wished = Counter(name for part in encoded_images(folder) for name in _wished(part, classes))
    with atomic_directory(target) as partial:
        for name in classes:
            (partial / name).mkdir()
        for part in encoded_images(folder):
            rows = zip(part.png, part.labels, _wished(part, classes), _names(part), strict=True)
            for png, label, wish, original in rows:
                name = wish if wished[wish] == 1 else f"{classes[label]}/{_stem(original)}.png"
                _put(partial / name, png)
        (partial / FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        _, height, width = manifest["image_shape"]
        about = {"name": manifest["name"], "dataset": manifest["dataset"]["name"], "images": manifest["images"]}
        (partial / "README.md").write_text(README.format(**about, height=height, width=width, file=FILE))


def _put(file: Path, png: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("xb") as stream:
            stream.write(png)
    except FileExistsError:
        raise ArtifactError(f"two images would be called {file.name}; export to webdataset or npz instead") from None


def _folder(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ArtifactError(f"the class {name!r} cannot be the name of a folder; export to webdataset or npz instead")
    return name


def _names(part: Encoded) -> list[str]:
    """Return the original name of every image, or its place in the data set."""
    return list(part.names) or [f"{place:06d}" for place in part.places]


def _stem(name: str) -> str:
    """Return a name below its class folder, which cannot lead out of it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    below = parts[1:] if len(parts) > 1 else parts
    if not below or any(part in ("..", "/") or "\0" in part for part in below):
        raise ArtifactError(f"the name {name!r} of an image leads out of its folder; the artifact was tampered with")
    return "/".join(below)


def _wished(part: Encoded, classes: list[str]) -> Iterator[str]:
    """Yield how images are called where no two would be called alike."""
    for name, label in zip(_names(part), part.labels, strict=True):
        below = PurePosixPath(_stem(name))
        yield str(PurePosixPath(classes[label]) / (below.with_suffix(".png") if part.names else f"{below}.png"))
