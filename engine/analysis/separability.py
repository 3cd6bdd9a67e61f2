"""How well a straight cut tells the classes of perturbations apart."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.analysis.rows import principal_coordinates, ranks_in_class

ITERATIONS = 1_000
"""What lbfgs may take; it stops far earlier."""


def linear_separability(noise_NCHW: Tensor, labels_N: Tensor, *, generator: torch.Generator) -> float | None:
    """Return the accuracy (0 to 1) of logistic regression on perturbations that it was not fitted to.

    One half of every class is fitted, the other half judged; None where that leaves fewer than two classes to fit or
    no row to judge. Chance is the share of the largest class. Each perturbation is scaled to a root mean square of 1.

    Source: Yu et al. 2022, "Availability attacks create shortcuts": linear models fitted to normalised perturbations.
    Deviates: they give the accuracy on the fitted rows. With fewer rows than dimensions any labels are separable there,
        those of independent noise too, so that the number would only tell how many rows were taken.
    """
    from sklearn.linear_model import LogisticRegression

    judged_N = ranks_in_class(labels_N, generator) % 2 == 1
    fitted_N = ~judged_N
    if len(labels_N[fitted_N].unique()) < 2 or not judged_N.any():
        return None
    rows_ND = noise_NCHW.flatten(1).float()
    size = rows_ND.square().mean(dim=1, keepdim=True).sqrt()
    # The regression depends on inner products and an intercept alone: in all principal coordinates it is the same one.
    coordinates = principal_coordinates(rows_ND / size.clamp_min(torch.finfo(torch.float32).tiny))
    regression = LogisticRegression(max_iter=ITERATIONS).fit(coordinates[fitted_N].numpy(), labels_N[fitted_N].numpy())
    return float(regression.score(coordinates[judged_N].numpy(), labels_N[judged_N].numpy()))
