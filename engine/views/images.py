"""What views are made of: a batch of one size, or images of many sizes laid one behind another.

Shapes: B images of 3 x H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Images of different sizes, planar RGB, one behind another.

    Shapes: pixels [P] holds the B images, each flattened from [3, H, W]; sizes int64 [B, 2] (height, width), on
    the CPU.
    """

    pixels: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def offsets(self) -> Tensor:
        """Return where each image starts in ``pixels``, on the CPU."""
        counts = 3 * self.sizes.prod(dim=1)
        return counts.cumsum(0) - counts

    @property
    def device(self) -> torch.device:
        """Return where the pixels lie."""
        return self.pixels.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the pixels."""
        return self.pixels.dtype


Images = Tensor | Ragged
"""[B, 3, H, W], or images of different sizes."""


def pack(images: Sequence[Tensor]) -> Ragged:
    """Lay images [3, H, W] of different sizes one behind another."""
    sizes = torch.tensor([image.shape[1:] for image in images]).view(-1, 2)
    return Ragged(torch.cat([image.reshape(-1) for image in images]), sizes)


def sizes_of(images: Images) -> Tensor:
    """Return the height and width of every image: int64 [B, 2], on the CPU."""
    if isinstance(images, Ragged):
        return images.sizes
    return torch.tensor(images.shape[2:]).expand(len(images), 2)
