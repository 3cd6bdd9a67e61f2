"""Clusters in the place of classes, for a folder that names none: k-means on features learnt from its own images."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from engine.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

MOST, SMALLEST = 10, 5
"""How many clusters are tried first, and how many images each must hold at least."""


def cluster(features_NF: Tensor, *, seed: int) -> Tensor:
    """Return a cluster a row, int64 [N], numbered by size: the most clusters, up to ten, of five rows or more each.

    Rows are compared by direction, as the kNN probe compares them.

    Raises:
        EngineError: the features do not fall into two clusters of that size.
    """
    import torch
    import torch.nn.functional as F
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    directions = F.normalize(features_NF.double(), dim=1).numpy()
    for count in range(min(MOST, len(directions) // SMALLEST), 1, -1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: counted below
            found = KMeans(count, n_init=10, random_state=seed).fit_predict(directions)
        labels = torch.from_numpy(found).long()
        sizes = labels.bincount(minlength=count)
        if int(sizes.min()) >= SMALLEST:
            return sizes.argsort(descending=True, stable=True).argsort()[labels]
    raise EngineError(
        f"{len(features_NF)} images do not fall into two clusters of {SMALLEST} or more: without labels nothing can be "
        "judged; put the images into one folder per class, or run with --no-verdict"
    )
