"""How much released images look like the originals.

Shapes: N images, C channels, H x W pixels in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""K1 and K2 of Wang et al. 2004, squared, for a range of 1."""
CHUNK = 64  # images compared at a time; only memory depends on it


def psnr(clean_NCHW: Tensor, released_NCHW: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, infinite where not a pixel differs.

    Shapes: the result is float64 [N].
    Units: decibels.
    """
    error_N = (clean_NCHW - released_NCHW).square().flatten(1).mean(dim=1, dtype=torch.float64)
    return -10 * error_N.log10()


def ssim(clean_NCHW: Tensor, released_NCHW: Tensor) -> Tensor:
    """Return the structural similarity of each image, 1 where not a pixel differs.

    The mean over channels and over all windows that lie inside the image.

    Shapes: the result is float64 [N].
    Source: Wang et al. 2004, eq. 13 and section III.C: Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03.
    Deviates: they compare grey images; an image smaller than 11 pixels has a window of its own, smaller, odd side.
    """
    pairs = zip(clean_NCHW.split(CHUNK), released_NCHW.split(CHUNK), strict=True)
    return torch.cat([_ssim(clean.double(), released.double()) for clean, released in pairs])


def _ssim(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    mean_x, mean_y = _blur(x_NCHW), _blur(y_NCHW)
    variance_x = _blur(x_NCHW * x_NCHW) - mean_x**2
    variance_y = _blur(y_NCHW * y_NCHW) - mean_y**2
    covariance = _blur(x_NCHW * y_NCHW) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + LUMINANCE) * (2 * covariance + CONTRAST)
    denominator = (mean_x**2 + mean_y**2 + LUMINANCE) * (variance_x + variance_y + CONTRAST)
    return (numerator / denominator).flatten(1).mean(dim=1)


def _blur(x_NCHW: Tensor) -> Tensor:
    """Return the mean in a Gaussian window around every pixel that is far enough from the edge."""
    shortest = min(x_NCHW.shape[2:])
    side = min(WINDOW, shortest - (shortest + 1) % 2)
    distances = torch.arange(side, dtype=x_NCHW.dtype, device=x_NCHW.device) - side // 2
    weights = (-(distances**2) / (2 * SIGMA**2)).exp()
    weights /= weights.sum()
    channels = x_NCHW.shape[1]
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    return F.conv2d(F.conv2d(x_NCHW, down, groups=channels), down.transpose(2, 3), groups=channels)
