"""How close the features of two views are, and how evenly features lie on the sphere.

Shapes: B images in a batch, D feature dimensions; ``za_BD`` and ``zb_BD`` are the features of two views, row by row of
the same images. Rows need not be normalised: every function compares directions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.precision import in_float32


@in_float32
def alignment(za_BD: Tensor, zb_BD: Tensor) -> Tensor:
    """Return the mean squared distance of the two views of an image: 0 where they agree, 4 where they are opposite.

    Source: Wang & Isola 2020, section 4.1 (alignment loss) with alpha 2, which their experiments use.
    """
    return (_normalize(za_BD) - _normalize(zb_BD)).square().sum(dim=1).mean()


@in_float32
def uniformity(z_BD: Tensor) -> Tensor:
    """Return the logarithm of the mean Gaussian potential of all pairs of two or more images.

    It is 0 where all features point the same way; features spread evenly over the sphere come close to the lowest
    value that there is.

    Source: Wang & Isola 2020, section 4.1 (uniformity loss) with t 2, which their experiments use.
    """
    return torch.pdist(_normalize(z_BD)).square().mul(-2).exp().mean().log()


@in_float32
def distance_histogram(za_BD: Tensor, zb_BD: Tensor, *, bins: int) -> Tensor:
    """Count the cosine distances of two views in bins of equal width that cover 0 to 2.

    Shapes: the result is int64 [bins]; its sum is B.
    Source: He, Zha & Katabi 2023, figures 4d and 8.
    """
    distances_B = 1 - (_normalize(za_BD) * _normalize(zb_BD)).sum(dim=1)
    # Rounding can leave the range; a distance of 2 belongs to the last bin.
    places_B = (distances_B * (bins / 2)).long().clamp(0, bins - 1)
    counts = torch.zeros(bins, dtype=torch.int64, device=places_B.device)
    return counts.index_add_(0, places_B, torch.ones_like(places_B))


def _normalize(z_BD: Tensor) -> Tensor:
    return F.normalize(z_BD.float(), dim=1)
