"""A contrastive learner whose views are adversarial too, and which tells clusters of images apart.

Shapes: B images of a batch, C channels, H x W pixels, D projection dimensions, L clusterings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.crossing import everyones
from engine.losses import sup_con
from engine.networks import Encoder, initialize_
from engine.normalization import BatchNormSets
from engine.protocols import DefenseContext, Gradient, Victim
from engine.training.defending import Adversary, Defended
from engine.views import Views
from engine.views.frequency import high_pass

BN_SETS = ("normal", "adversarial", "clusters")
"""Views that no adversary touched, those against the contrast, and those against the heads: normalised apart."""


class Contrastive(Protocol):
    """What is asked of a learner of two views beside its encoder: its network has a ``projector``."""

    network: nn.ModuleDict
    temperature: float
    loss_scale: float


@dataclass(frozen=True)
class Hardening:
    """What makes a contrast robust; see AdvCL's spec."""

    adversary: Adversary
    radius_rel: float
    ce_weight: float
    clusters: Sequence[int]
    bn_set: str


class RobustContrast(Defended):
    """A learner of four views of an image, which attract, and of the image's clusters in a fifth.

    Two views are the inner learner's. The others come from a third, weak one: its high frequencies, what an adversary
    of the contrast makes of it, and what an adversary of the clusters makes of it. Labels are int64 [B, 1 + L]: the
    data set's own, which nothing reads, and the clusters.

    Source: Fan et al. 2021 (AdvCL), official code.
    """

    def __init__(self, victim: Victim, context: DefenseContext, weak: Views, hardening: Hardening) -> None:
        super().__init__(victim, context)
        self.inner, self.hardening = cast(Contrastive, victim), hardening
        self.views = (*victim.views, weak)
        features = cast(Encoder, victim.encoder).features
        self.heads = nn.ModuleList([nn.Linear(features, count) for count in hardening.clusters])
        initialize_(self.heads, context.generator)
        self.batch_norm = BatchNormSets(victim.encoder, BN_SETS, own=hardening.bn_set)
        self.network = nn.ModuleDict({**self.inner.network, "heads": self.heads, "batch_norm": self.batch_norm})

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the loss under adversarial views.

        The search changes two of the five views; the other three, which batch norm keeps apart from them, are
        projected once. No branch is a target: the gradient passes all of them in any case.
        """
        view_a, view_b, weak = views
        high = high_pass(weak, radius_rel=self.hardening.radius_rel)
        zs = [self._project(view, "normal") for view in (view_a, view_b, high)]
        constant = [z.detach() for z in zs]
        adversarial = self.hardening.adversary(
            torch.cat([weak, weak]), lambda images: self._robust_loss(images, constant, labels), self.context, batches=2
        )
        return self._robust_loss(adversarial, zs, labels)

    def _robust_loss(self, adversarial: Tensor, zs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the sum of a loss of the first half of the images alone, and one of the second.

        Shapes: adversarial [2B, C, H, W], zs three projections [B, D].
        """
        against_contrast, against_clusters = adversarial.chunk(2)
        z_adversarial = self._project(against_contrast, "adversarial")
        contrast = _contrast([everyones(z) for z in (z_adversarial, *zs)], temperature=self.inner.temperature)
        with self.batch_norm.using("clusters"):
            features = self.encoder(against_clusters)
        entropies = [cross_entropy(head(features), labels[:, 1 + i]) for i, head in enumerate(self.heads)]
        return self.inner.loss_scale * (contrast + self.hardening.ce_weight * torch.stack(entropies).mean())

    def _project(self, view: Tensor, bn_set: str) -> Tensor:
        with self.batch_norm.using(bn_set):
            z: Tensor = self.inner.network["projector"](self.encoder(view))
        return z


def _contrast(zs: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Return the supervised contrastive loss of an even number of views [B, D], each image a class of its own."""
    half = len(zs) // 2
    images = torch.arange(len(zs[0]), device=zs[0].device).repeat(half)
    return sup_con(torch.cat(tuple(zs[:half])), torch.cat(tuple(zs[half:])), images, temperature=temperature)
