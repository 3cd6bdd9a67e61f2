"""Crop, resize, shift and flip as two sparse linear maps per image: one over its rows, one over its columns.

Shapes: B images, C channels, H x W pixels, O x O output pixels, K taps. Boxes are (top, left, height, width) in
source pixels; they may be fractional (a shift) and may leave the image, which is black outside (padding).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.transfer import to_device
from engine.views.images import Ragged

TRIES = 10  # torchvision.transforms.RandomResizedCrop.get_params


def sample_boxes(
    generator: torch.Generator, sizes_B2: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Draw crop boxes with torchvision's distribution: ten tries each, then the central fallback.

    Shapes: float [B, 4] of whole numbers, rows (top, left, height, width).
    Units: scale in fractions of the image's area, ratio as width over height.
    """
    batch, (height, width) = len(sizes_B2), sizes_B2[:, :, None].unbind(dim=1)
    area = torch.empty(batch, TRIES).uniform_(*scale, generator=generator) * (height * width)
    log_ratio = torch.empty(batch, TRIES).uniform_(*map(math.log, ratio), generator=generator)
    position_B2 = torch.rand(batch, 2, generator=generator)
    w_tries = (area * log_ratio.exp()).sqrt().round().long()
    h_tries = (area / log_ratio.exp()).sqrt().round().long()
    fits = (w_tries > 0) & (w_tries <= width) & (h_tries > 0) & (h_tries <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    size_B2 = torch.cat([h_tries.gather(1, first), w_tries.gather(1, first)], dim=1)
    corner_B2 = (position_B2 * (sizes_B2 - size_B2 + 1)).floor().long()
    boxes = torch.cat([corner_B2, size_B2], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, _central_boxes(sizes_B2, ratio)).float()


def _central_boxes(sizes_B2: Tensor, ratio: tuple[float, float]) -> Tensor:
    height, width = sizes_B2.unbind(dim=1)
    wide, high = width > height * ratio[1], width < height * ratio[0]
    h = torch.where(high, (width / ratio[0]).round().long(), height)
    w = torch.where(wide, (height * ratio[1]).round().long(), width)
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], dim=1)


def _triangle(pixel: Tensor, centre: Tensor, scale: Tensor, length: Tensor) -> Tensor:
    """Return the weights, before they are normalised, of source pixels counted from the box's start.

    Source: Pillow, Resample.c, precompute_coeffs with the bilinear filter: half-pixel centres, support
        max(1, scale) so that shrinking antialiases.
    """
    weights = (1 - (pixel + 0.5 - centre).abs() / scale.clamp_min(1)).clamp_min(0)
    return weights * ((pixel > -1) & (pixel < length))


def resize_matrices(start_B: Tensor, length_B: Tensor, *, source: int, target: int, margin: int) -> Tensor:
    """Return the matrices that cut a box out of one axis and resize it: [B, target, source].

    The weights of an output sum to one over the box; those of black pixels outside the image are left out.

    Units: margin in pixels, how far a box may leave the image on either side.
    """
    pixel = torch.arange(-margin, source + margin, device=start_B.device) - start_B[:, None, None]
    length = length_B[:, None, None]
    scale = length / target
    centre = (torch.arange(target, device=start_B.device)[:, None] + 0.5) * scale
    weights = _triangle(pixel, centre, scale, length)
    weights = weights / weights.sum(dim=2, keepdim=True)
    return weights[:, :, margin : margin + source]


def view_matrices(
    boxes_B4: Tensor, flip_B: Tensor, size_HW: tuple[int, int], target: int, *, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the row matrices [B, O, H] and the column matrices [B, W, O] of crops, resizes, shifts and flips."""
    top, left, height, width = boxes_B4.unbind(dim=1)
    rows = resize_matrices(top, height, source=size_HW[0], target=target, margin=margin)
    columns = resize_matrices(left, width, source=size_HW[1], target=target, margin=margin)
    columns = torch.where(flip_B[:, None, None], columns.flip(1), columns)
    return rows, columns.transpose(1, 2).contiguous()


def unchanged(pixels: Tensor) -> Tensor:
    """Keep what a pass over one axis gave."""
    return pixels


def resample(
    images_BCHW: Tensor, rows_BOH: Tensor, columns_BWO: Tensor, store: Callable[[Tensor], Tensor] = unchanged
) -> Tensor:
    """Apply column and row matrices to images: [B, C, H, W] to [B, C, O, O]; ``store`` follows each pass."""
    batch, channels, height, width = images_BCHW.shape
    narrow = store(torch.bmm(images_BCHW.reshape(batch, channels * height, width), columns_BWO))
    narrow = narrow.view(batch, channels, height, columns_BWO.shape[2])
    # A loop over three channels beats one broadcast product, which would copy the weights per channel.
    return store(torch.stack([torch.bmm(rows_BOH, narrow[:, c]) for c in range(channels)], dim=1))


@dataclass(frozen=True)
class Taps:
    """One axis' map as a band: which source pixels each output takes, and how much of them.

    Shapes: pixels int64 and weights [B, O, K].
    """

    pixels: Tensor
    weights: Tensor

    def flipped(self, flip_B: Tensor) -> Taps:
        """Mirror the outputs of some images."""
        mirrored = flip_B[:, None, None]
        return Taps(*(torch.where(mirrored, part.flip(1), part) for part in (self.pixels, self.weights)))


def taps(
    start_B: Tensor,
    length_B: Tensor,
    source_B: Tensor,
    *,
    target: int,
    device: torch.device,
    weigh: Callable[[Tensor], Tensor] = unchanged,
) -> Taps:
    """Return the band of one axis on a device; the boxes and sizes are on the CPU."""
    reach = int((2 * (length_B / target).clamp_min(1)).max().ceil()) + 2
    start_B, length_B, source_B = (to_device(part, device) for part in (start_B, length_B, source_B))
    scale = length_B[:, None] / target
    centre = (torch.arange(target, device=device) + 0.5) * scale
    first = (start_B[:, None] + centre - scale.clamp_min(1) - 0.5).floor()
    pixel = first[:, :, None] + torch.arange(reach, device=device)
    weights = [_triangle(each - start_B[:, None], centre, scale, length_B[:, None]) for each in pixel.unbind(2)]
    # Summed tap by tap: the result must not depend on how many taps another image of the batch needs.
    total = sum(weights[1:], start=weights[0])
    last = source_B[:, None, None] - 1
    kept = (pixel >= 0) & (pixel <= last)
    normalised = torch.stack(weights, dim=2) / total[:, :, None]
    return Taps(pixel.long().clamp_min(0).minimum(last), weigh(normalised) * kept)


def resample_ragged(
    images: Ragged,
    boxes_B4: Tensor,
    flip_B: Tensor,
    target: int,
    weigh: Callable[[Tensor], Tensor] = unchanged,
    store: Callable[[Tensor], Tensor] = unchanged,
) -> Tensor:
    """Crop, resize and flip images of many sizes: [B, 3, O, O], in memory that grows with their pixels alone."""
    device = images.device
    height_B, width_B = images.sizes.unbind(dim=1)
    top, left, h, w = boxes_B4.to(images.dtype).unbind(dim=1)
    across = taps(left, w, width_B, target=target, device=device, weigh=weigh).flipped(to_device(flip_B, device))
    down = taps(top, h, height_B, target=target, device=device, weigh=weigh)
    of_row = torch.arange(len(images)).repeat_interleave(3 * height_B)
    row_starts = width_B[of_row].cumsum(0) - width_B[of_row]
    plane_rows = (3 * height_B.cumsum(0) - 3 * height_B)[:, None] + torch.arange(3) * height_B[:, None]
    of_row, row_starts, plane_rows = (to_device(part, device) for part in (of_row, row_starts, plane_rows))
    narrow = images.pixels.new_zeros(len(of_row), target)
    for pixel, weight in zip(across.pixels.unbind(2), across.weights.unbind(2), strict=True):
        narrow = narrow + weight[of_row] * images.pixels[row_starts[:, None] + pixel[of_row]]
    narrow = store(narrow)
    views = images.pixels.new_zeros(len(images), 3, target, target)
    for pixel, weight in zip(down.pixels.unbind(2), down.weights.unbind(2), strict=True):
        views = views + weight[:, None, :, None] * narrow[plane_rows[:, :, None] + pixel[:, None]]
    return store(views)
