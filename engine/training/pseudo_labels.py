"""Labels without a teacher: the clusters of an encoder's features.

Shapes: N images, F features, L clusterings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from engine.errors import EngineError
from engine.protocols import DefenseContext, ImageSet
from engine.training.probe import encode


def cluster(features_NF: Tensor, counts: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return the k-means cluster of every row, once for each number of clusters: int64 [N, L] on the CPU.

    Source: Lloyd 1982, from the start of Arthur & Vassilvitskii 2007 (k-means++).
    """
    points = features_NF.cpu().numpy()
    seeds = torch.randint(2**31, (len(counts),), generator=generator).tolist()
    with threadpool_limits(1):  # several threads add up in any order, and the last bits move points between clusters
        columns = [
            torch.from_numpy(KMeans(count, random_state=seed).fit_predict(points))
            for count, seed in zip(counts, seeds, strict=True)
        ]
    return torch.stack(columns, dim=1).long()


def pseudo_labelled(
    images: ImageSet, counts: Sequence[int], *, features: Literal["released", "clean"], context: DefenseContext
) -> ImageSet:
    """Give every image, after its label, its cluster among an undefended encoder's features, for each count.

    Raises:
        EngineError: fewer images than clusters.
    """
    if len(images) < max(counts):
        raise EngineError(f"{len(images)} images do not fall into {max(counts)} clusters; lower the defense's clusters")
    encoder = context.pretrained(features)
    features_NF = encode(encoder, images.images_u8.to(context.precision.device), None, None)
    clusters = cluster(features_NF, counts, context.generator).to(images.labels.device)
    return replace(images, labels=torch.cat([images.labels[:, None], clusters], dim=1))
