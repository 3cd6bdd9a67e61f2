"""Rows of a data set: chosen evenly from the classes, and described by as few numbers as hold everything.

Shapes: N rows of D numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ranks_in_class(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """Put the rows of every class in a random order and return each row's place in its class's, from 0 on.

    The rows of the lowest ranks are a sample with as many rows of every class; even and odd ranks are two halves that
    are stratified.

    Shapes: labels_N and the result int64 [N].
    """
    shuffled = torch.randperm(len(labels_N), generator=generator)
    by_class = shuffled[labels_N[shuffled].argsort(stable=True)]
    counts = labels_N.unique(return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    ranks = torch.empty_like(labels_N)
    ranks[by_class] = torch.arange(len(labels_N)) - starts
    return ranks


def principal_coordinates(x_ND: Tensor) -> Tensor:
    """Return rows in the axes of their principal components, all of them: nothing is lost but their mean.

    Distances and angles around the mean stay as they are, so that whatever depends on them alone costs as much as N
    dimensions do, however many pixels a row has.

    Shapes: the result is float64 [N, min(N - 1, D)] (at least one column), the widest axis first.
    """
    centred = x_ND - x_ND.mean(dim=0)
    variances, axes = torch.linalg.eigh((centred @ centred.T).double())
    kept = max(1, min(len(x_ND) - 1, x_ND.shape[1]))
    return (axes * variances.clamp_min(0).sqrt()).flip(1)[:, :kept]
