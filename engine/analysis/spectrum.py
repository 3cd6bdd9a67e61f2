"""At which spatial frequencies images and perturbations have their power."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64  # images transformed at a time; only memory depends on it


def radial_spectrum(x_NCHW: Tensor) -> Tensor:
    """Return the mean power of a frequency at each distance from zero, over images, channels and directions.

    Entry r is of the frequencies nearest to r cycles per image, entry 0 the squared mean. White noise is flat at its
    variance; over all frequencies the mean power is the mean square of a pixel.

    Shapes: the result is float64 [R]; the last entry is of the corner, beyond the highest frequency of an axis.
    Units: the square of those of ``x_NCHW``.
    """
    height, width = x_NCHW.shape[2:]
    rows, columns = (torch.fft.fftfreq(side, 1 / side, dtype=torch.float64) for side in (height, width))
    radii_HW = torch.hypot(rows[:, None], columns).round().long().to(x_NCHW.device)
    power_HW = torch.zeros(height, width, dtype=torch.float64, device=x_NCHW.device)
    for part in x_NCHW.split(CHUNK):
        power_HW += torch.fft.fft2(part.double(), norm="ortho").abs().square().sum(dim=(0, 1))
    power_HW /= x_NCHW.shape[0] * x_NCHW.shape[1]
    sums = torch.bincount(radii_HW.flatten(), weights=power_HW.flatten())
    return sums / torch.bincount(radii_HW.flatten())
