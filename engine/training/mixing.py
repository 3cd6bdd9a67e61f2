"""Mixtures of the images of a batch, and a learner that trains on them.

Shapes: B images of a batch, C channels, H x W pixels, K classes.
Units: a share is in [0, 1]: how much of a mixture is the image's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from engine.crossing import everyones
from engine.processes import own
from engine.protocols import DefenseContext, Gradient, Victim
from engine.training.defending import Defended

Mixture = Callable[[Tensor, torch.Generator], tuple[Tensor, float]]
"""Mix each image [B, C, H, W] with its partner; also return its own share."""


def partners(rows_B: Tensor) -> Tensor:
    """Return each row's partner: the row at the mirrored place, so that each is its partner's partner.

    Source: Shen et al. 2022 (Un-Mix), official code. A batch's order is random already.
    """
    return rows_B.flip(0)


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha): the share of one of two gamma variates in their sum."""
    shapes = torch.full((2,), alpha, dtype=torch.float64)
    own, other = torch._standard_gamma(shapes, generator=generator).tolist()
    return float(own / (own + other))


def mixup(images_BCHW: Tensor, generator: torch.Generator, *, alpha: float) -> tuple[Tensor, float]:
    """Blend each image with its partner.

    Source: Zhang et al. 2018 (mixup).
    """
    share = draw_share(alpha, generator)
    return torch.lerp(partners(images_BCHW), images_BCHW, share), share


def cutmix(
    images_BCHW: Tensor, generator: torch.Generator, *, alpha: float, probability: float
) -> tuple[Tensor, float]:
    """Paste a box of its partner into each image: the same box for all of a batch, or none.

    The box is cut off where it hangs over the border; the share that is returned is that of the pixels.

    Source: Yun et al. 2019 (CutMix), eq. 1 and 2, and official code.
    """
    is_cut = bool(torch.rand((), generator=generator) < probability)
    share = draw_share(alpha, generator) if is_cut else 1.0
    height, width = images_BCHW.shape[2:]
    rows, columns = (_span(side, math.sqrt(1 - share), generator) for side in (height, width))
    mixed = images_BCHW.clone()
    mixed[:, :, rows, columns] = partners(images_BCHW[:, :, rows, columns])
    return mixed, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _span(side: int, part: float, generator: torch.Generator) -> slice:
    """Draw a span of about a part of a side around a uniform pixel, both halves rounded down as officially."""
    half = int(side * part) // 2
    centre = int(torch.randint(side, (), generator=generator))
    return slice(max(centre - half, 0), min(centre + half, side))


class Mixed(Defended):
    """A learner whose first view is a mixture.

    With a classifier, whose one view is the mixture, the label is mixed alike. Without one, the mixture is compared
    with the other view of both its images: its loss is that against its own image's, weighted with the share, plus
    that against its partner's, weighted with the rest. Labels belong to the other view there: a mixture counts as its
    own image's class in the first loss and as its partner's in the second.

    Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix); without a classifier, Shen et al. 2022 (Un-Mix).
    """

    def __init__(self, victim: Victim, context: DefenseContext, mix: Mixture) -> None:
        super().__init__(victim, context)
        self.mix = mix

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the inner learner's loss of mixtures."""
        first, *others = views
        whole, share = self.mix(everyones(first), self.context.generator)
        mixed = own(whole)
        if self.classifier is not None:
            return self.victim.loss([mixed], self._mixed_labels(labels, share), gradient=gradient)
        # The other views keep their order, so that a queue of their keys is the same after either loss.
        alone = self.victim.loss([mixed, *others], labels, gradient=gradient)
        if share == 1:
            return alone
        partner = self.victim.loss([own(partners(whole)), *others], labels, gradient=gradient)
        return share * alone + (1 - share) * partner

    def _mixed_labels(self, labels_B: Tensor, share: float) -> Tensor:
        """Return the probabilities of the classes [B, K]."""
        num_classes = cast("nn.Linear", self.classifier).out_features
        own_BK = torch.eye(num_classes, device=labels_B.device)[everyones(labels_B)]
        return own(torch.lerp(partners(own_BK), own_BK, share))
