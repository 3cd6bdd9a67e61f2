"""Random resized crop and horizontal flip as two matrix products per image.

Shapes: B images, C channels, H x W pixels, O x O output pixels. Boxes are integers in pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRIES = 10  # torchvision.transforms.RandomResizedCrop.get_params


def sample_boxes(
    generator: torch.Generator,
    batch: int,
    size_HW: tuple[int, int],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Draw crop boxes with torchvision's distribution: ten tries each, then the central fallback.

    Shapes: int64 [B, 4], rows (top, left, height, width).
    Units: scale in fractions of the image's area, ratio as width over height.
    """
    height, width = size_HW
    area = torch.empty(batch, TRIES).uniform_(*scale, generator=generator) * (height * width)
    log_ratio = torch.empty(batch, TRIES).uniform_(*map(math.log, ratio), generator=generator)
    position_B2 = torch.rand(batch, 2, generator=generator)
    w_tries = (area * log_ratio.exp()).sqrt().round().long()
    h_tries = (area / log_ratio.exp()).sqrt().round().long()
    fits = (w_tries > 0) & (w_tries <= width) & (h_tries > 0) & (h_tries <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    size_B2 = torch.cat([h_tries.gather(1, first), w_tries.gather(1, first)], dim=1)
    corner_B2 = (position_B2 * (torch.tensor(size_HW) - size_B2 + 1)).floor().long()
    boxes = torch.cat([corner_B2, size_B2], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, _central_box(size_HW, ratio))


def _central_box(size_HW: tuple[int, int], ratio: tuple[float, float]) -> Tensor:
    height, width = size_HW
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return torch.tensor([(height - h) // 2, (width - w) // 2, h, w])


def resize_weights(start_B: Tensor, length_B: Tensor, *, source: int, target: int) -> Tensor:
    """Return the matrices that crop and resize one axis with Pillow's triangle filter.

    Half-pixel centres, support max(1, scale) so that shrinking antialiases, weights renormalised where
    the filter meets the crop's edge.

    Shapes: [B, target, source].
    Source: Pillow, Resample.c, precompute_coeffs with the bilinear filter.
    """
    scale = length_B.float()[:, None, None] / target
    support = scale.clamp_min(1)
    centre = (torch.arange(target, device=start_B.device)[:, None] + 0.5) * scale
    pixel = torch.arange(source, device=start_B.device) - start_B[:, None, None]
    weights = (1 - (pixel + 0.5 - centre).abs() / support).clamp_min(0)
    weights = weights * ((pixel >= 0) & (pixel < length_B[:, None, None]))
    return weights / weights.sum(dim=2, keepdim=True)


def crop_matrices(boxes_B4: Tensor, flip_B: Tensor, size_HW: tuple[int, int], target: int) -> tuple[Tensor, Tensor]:
    """Return the row matrices [B, O, H] and the column matrices [B, W, O] of crops, resizes and flips."""
    top, left, height, width = boxes_B4.unbind(dim=1)
    rows = resize_weights(top, height, source=size_HW[0], target=target)
    columns = resize_weights(left, width, source=size_HW[1], target=target)
    columns = torch.where(flip_B[:, None, None], columns.flip(1), columns)
    return rows, columns.transpose(1, 2).contiguous()


def resample(images_BCHW: Tensor, rows_BOH: Tensor, columns_BWO: Tensor) -> Tensor:
    """Apply row and column matrices to images: [B, C, H, W] to [B, C, O, O]."""
    batch, channels, height, width = images_BCHW.shape
    narrow = torch.bmm(images_BCHW.reshape(batch, channels * height, width), columns_BWO)
    narrow = narrow.view(batch, channels, height, -1)
    # A loop over three channels beats one broadcast product, which would copy the weights per channel.
    return torch.stack([torch.bmm(rows_BOH, narrow[:, c]) for c in range(channels)], dim=1)
