"""Images that look like photographs, without shipping any."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.randomness import stream

Photograph = Callable[[int, int, int], Tensor]


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
