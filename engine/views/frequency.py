"""What of an image lies in its high frequencies.

Shapes: B images, C channels, square, of H x H pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def high_pass(images_BCHH: Tensor, *, radius_rel: float) -> Tensor:
    """Return the images without their low frequencies: edges and texture around zero, of any sign.

    Units: radius_rel in cycles per pixel; a frequency stays if its distance from zero is that or more.
    Source: Wang et al. 2020, "High-Frequency Component Helps Explain the Generalization of Convolutional Neural
        Networks"; the official code of AdvCL takes a radius of 8 cycles over images of 32 pixels.
    """
    size = images_BCHH.shape[-1]
    place = torch.arange(size, device=images_BCHH.device)
    cycles = torch.minimum(place, size - place)  # whole numbers, so that nothing on the circle is lost to rounding
    half = cycles[: size // 2 + 1]  # a real image's other half is its mirror image
    is_high = cycles[:, None] ** 2 + half**2 >= (radius_rel * size) ** 2
    return torch.fft.irfft2(torch.fft.rfft2(images_BCHH) * is_high, s=(size, size))
