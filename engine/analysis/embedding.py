"""Perturbations as points of a plane, the similar ones near each other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.analysis.rows import principal_coordinates

PERPLEXITY = 30.0
"""scikit-learn's; van der Maaten & Hinton 2008 advise 5 to 50."""
ITERATIONS = 500
"""Half of what van der Maaten & Hinton 2008 run on 6,000 points: a thousand points lie still by then."""
FEWEST = 4
"""Fewer rows have no neighbourhoods to keep."""


def embed_tsne(noise_NCHW: Tensor) -> Tensor | None:
    """Return the t-SNE of perturbations, or None where fewer than four or no two different ones are given.

    It starts from the first two principal components and runs on one thread: sums that threads share come out
    differently from run to run, and t-SNE magnifies a last bit.

    Shapes: the result is float32 [N, 2].
    Source: van der Maaten & Hinton 2008.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows_ND = noise_NCHW.flatten(1).float()
    if len(rows_ND) < FEWEST or bool((rows_ND == rows_ND[0]).all()):
        return None
    perplexity = min(PERPLEXITY, (len(rows_ND) - 1) / 3)  # three times as many neighbours are looked at
    with threadpool_limits(limits=1):
        coordinates = principal_coordinates(rows_ND).float().numpy()
        tsne = TSNE(perplexity=perplexity, init=_start(coordinates), max_iter=ITERATIONS, random_state=0)
        return torch.from_numpy(tsne.fit_transform(coordinates))


def _start(coordinates: np.ndarray) -> np.ndarray:
    """Return the two widest axes, as narrow as t-SNE wants its start (what scikit-learn's ``pca`` does)."""
    start = np.zeros((len(coordinates), 2), np.float32)
    start[:, : coordinates.shape[1]] = coordinates[:, :2]
    return start / start[:, 0].std() * 1e-4
