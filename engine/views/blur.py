"""Gaussian blur with per-image strength, as two matrix products per image.

Shapes: B images of C x H x W, K taps.
Source: torchvision's GaussianBlur: a kernel of fixed size, normalised, over borders that mirror the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.views.geometry import resample


def blur(images_BCHW: Tensor, sigma_B: Tensor, kernel: int) -> Tensor:
    """Blur every image with its own sigma.

    Units: sigma and the kernel's odd size in pixels.
    """
    height, width = images_BCHW.shape[2:]
    rows, columns = (blur_matrices(sigma_B, kernel, size) for size in (height, width))
    return resample(images_BCHW, rows, columns.transpose(1, 2))


def blur_matrices(sigma_B: Tensor, kernel: int, size: int) -> Tensor:
    """Return the matrices that blur one axis: [B, size, size].

    Raises:
        ValueError: the kernel reaches further than the image, so that nothing is there to mirror.
    """
    radius = kernel // 2
    if radius >= size:
        raise ValueError(f"a blur kernel of {kernel} needs images of more than {radius} pixels, got {size}")
    offset = torch.arange(-radius, radius + 1, device=sigma_B.device)
    weights_BK = torch.exp(-0.5 * (offset / sigma_B[:, None]).square())
    weights_BK = weights_BK / weights_BK.sum(dim=1, keepdim=True)
    place = torch.arange(size, device=sigma_B.device)
    source = (place[:, None] + offset).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # mirrored, the border pixel not repeated
    matrices = sigma_B.new_zeros(len(sigma_B), size, size)
    index = source.expand(len(sigma_B), -1, -1)
    return matrices.scatter_add(2, index, weights_BK[:, None].expand_as(index).contiguous())
