"""Images that look like photographs, and photographs, without shipping any."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.randomness import stream

Photograph = Callable[[int, int, int], Tensor]
TILES = 48


def _photograph(seed: int, height: int, width: int) -> Tensor:
    """Return an image with a photograph's 1/f spectrum, correlated channels, an edge, and clipped lights and darks.

    Shapes: uint8 [3, H, W].
    """
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    noise = torch.randn(4, height, width, generator=stream(seed, "photograph"))
    spectrum = torch.fft.rfft2(noise) / frequency.clamp_min(1 / max(height, width))
    planes = torch.fft.irfft2(spectrum, s=(height, width))
    planes = planes / planes.std(dim=(1, 2), keepdim=True)
    image = 0.5 + 0.25 * (planes[:1] + 0.5 * planes[1:])
    image[:, height // 4 : height // 2, width // 3 : width // 2] = torch.tensor([0.9, 0.1, 0.2])[:, None, None]
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="session")
def photograph() -> Photograph:
    return _photograph


def _read(file: Path) -> Tensor:
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.fixture(scope="session")
def camera() -> list[Tensor]:
    """Return the two photographs that come with scikit-learn: uint8 [3, 427, 640]."""
    found = find_spec("sklearn")  # the package itself takes seconds to import
    assert found is not None
    assert found.origin is not None
    images = [_read(Path(found.origin).parent / "datasets" / "images" / name) for name in ("china.jpg", "flower.jpg")]
    assert [tuple(image.shape) for image in images] == [(3, 427, 640)] * 2
    return images


def _tiles(image: Tensor, count: int) -> Tensor:
    tiles = image.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).flatten(0, 1)
    return tiles[torch.linspace(0, len(tiles) - 1, count).long()]


@pytest.fixture(scope="session", params=["synthetic", "camera", "cifar"])
def pictures(request: pytest.FixtureRequest) -> Tensor:
    """Return small pictures of one origin: uint8 [48, 3, 32, 32]."""
    if request.param == "synthetic":
        return torch.stack([_photograph(seed, 32, 32) for seed in range(TILES)])
    if request.param == "camera":
        return torch.cat([_tiles(image, TILES // 2) for image in request.getfixturevalue("camera")])
    files = sorted((request.getfixturevalue("cifar_subset") / "train").glob("*/*.png"))
    return torch.stack([_read(file) for file in files[:: len(files) // TILES][:TILES]])
