"""Released poisons of forty small images, in every form that is read."""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.protocols import ImageSet

COUNT, CLASSES, EPSILON = 40, ("cat", "dog", "tree", "car"), 8 / 255


def clean_images(names: bool = False) -> ImageSet:
    draws = torch.Generator().manual_seed(3)
    pixels = torch.randint(10, 240, (COUNT, 3, 8, 9), generator=draws, dtype=torch.uint8)
    labels = torch.arange(COUNT) % 4
    files = tuple(f"{CLASSES[row % 4]}/photo {row}.jpg" for row in range(COUNT)) if names else ()
    return ImageSet(pixels, labels, CLASSES, files)


def levels(rows: int = COUNT) -> torch.Tensor:
    draws = torch.Generator().manual_seed(4)
    return torch.randint(-8, 9, (rows, 3, 8, 9), generator=draws).to(torch.int8)


def released() -> torch.Tensor:
    return (clean_images().images_u8.int() + levels()).to(torch.uint8)


def official(file: Path, delta: torch.Tensor | None = None) -> Path:
    """A checkpoint as the official code writes it, its options included."""
    delta = levels().float() / 8 if delta is None else delta
    options = argparse.Namespace(cl_alg="SimCLR", epochs=1000, device=torch.device("cpu"))
    model = {"delta": torch.nn.Parameter(delta), "backbone.conv1.weight": torch.randn(4, 3, 3, 3)}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.5, momentum=0.9)
    torch.save({"opt": options, "model": model, "optimizer": optimizer.state_dict(), "epoch": 160}, file)
    return file


def bare(file: Path) -> Path:
    torch.save(levels().float() / 8, file)
    return file


def noise(file: Path) -> Path:
    torch.save(levels().float() / 255, file)
    return file


def channels_last(file: Path) -> Path:
    torch.save((levels().double() / 255).permute(0, 2, 3, 1).contiguous(), file)
    return file


def images(file: Path) -> Path:
    torch.save(released(), file)
    return file


def arrays(file: Path) -> Path:
    clean = clean_images()
    pixels = released().permute(0, 2, 3, 1).numpy()
    np.savez(file, images=pixels, labels=clean.labels.numpy(), class_names=np.array(CLASSES))
    return file


def noise_array(file: Path) -> Path:
    np.savez(file, noise=(levels().float() / 255).numpy())
    return file


def folder(place: Path) -> Path:
    for row, pixels in enumerate(released()):
        file = place / CLASSES[row % 4] / f"{row:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    return place


def flat(place: Path) -> Path:
    place.mkdir()
    for row, pixels in enumerate(released()):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"img_{row:03d}.png")
    return place


def tar(file: Path) -> Path:
    with tarfile.open(file, "w") as archive:
        for row, pixels in enumerate(released()):
            buffer = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
            for ending, content in (("png", buffer.getvalue()), ("cls", str(row % 4).encode())):
                member = tarfile.TarInfo(f"{row:06d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


FORMS: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "official checkpoint": ("official", "poison.pth", official),
    "official tensor": ("official", "poison.pth", bare),
    "noise": ("tensor", "noise.pt", noise),
    "noise, channels last": ("tensor", "noise.pt", channels_last),
    "images": ("tensor", "images.pt", images),
    "arrays": ("npz", "poison.npz", arrays),
    "noise array": ("npz", "noise.npz", noise_array),
    "class folders": ("imagefolder", "poison", folder),
    "one folder": ("imagefolder", "poison", flat),
    "tar": ("webdataset", "poison.tar", tar),
}
"""By name: the layout, a name for the file, and what writes it."""
