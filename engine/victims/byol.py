"""BYOL: an online network predicts what a momentum network makes of the other view; nothing repels.

Name: BYOL
Paper: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, with the settings of He, Zha & Katabi, ICLR 2023,
    Table 9.
Threat model: trains on the released images without labels.
Official code: kaiwenzha/contrastive-poisoning, cl_algs.py and losses.py.
Deviations: the momentum is constant, as in the paper and its code, where Grill et al. anneal it. The official code
    moves the momentum network before each of its two passes: ``updates_per_step: 2`` moves it twice after the step,
    so that both passes meet the same target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import Gradient, Source, Victim
from engine.spec import Positive, Unit
from engine.victimspec import TwoViewVictimSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.views import Views


class Spec(TwoViewVictimSpec):
    """BYOL; the defaults are the paper's CIFAR settings."""

    kind: Literal["byol"]
    backbone: spec_of("backbones")  # type: ignore[valid-type]
    lr: Annotated[float, Field(gt=0)] = 1.0
    encoder_momentum: Unit = 0.999
    # How often the momentum network moves at a step: once (paper) or twice (official code).
    updates_per_step: Literal[1, 2] = 1
    hidden: Positive = 4096
    projector_out: Positive = 256


@dataclass(frozen=True)
class BYOL(Victim):
    """See the module."""

    network: nn.ModuleDict
    views: tuple[Views, Views]
    encoder_momentum: float
    updates_per_step: int

    @property
    def encoder(self) -> nn.Module:
        """The online backbone."""
        return self.network["encoder"]

    def embed(self, view: Tensor) -> Tensor:
        """Return the online projections [B, D]."""
        projected: Tensor = self.network["projector"](self.encoder(view))
        return projected

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return minus the mean cosine of predictions and targets over both directions, from -1 to 1."""
        from engine.losses import negative_cosine
        from engine.momentum import target_branch

        with target_branch(gradient):
            targets = [self.network["momentum"](view) for view in views]
        pa, pb = (self.network["predictor"](self.embed(view)) for view in views)
        return (negative_cosine(pa, targets[1]) + negative_cosine(pb, targets[0])) / 2

    def after_step(self) -> None:
        """Let the momentum network follow the online backbone and projector."""
        from engine.momentum import follow_

        network = self.network
        for _ in range(self.updates_per_step):
            follow_(network["momentum"], network["encoder"], network["projector"], momentum=self.encoder_momentum)


def build(spec: Spec, *, source: Source, generator: torch.Generator) -> BYOL:
    """Build a BYOL learner with fresh weights."""
    from torch import nn

    from engine.momentum import momentum_copy
    from engine.networks import batch_norm_head, initialize_
    from engine.normalization import group_batch_norm_
    from engine.views import Views

    encoder = build_plugin("backbones", spec.backbone, source=source)
    projector = batch_norm_head(encoder.features, spec.hidden, spec.projector_out)
    predictor = batch_norm_head(spec.projector_out, spec.hidden, spec.projector_out)
    network = nn.ModuleDict({"encoder": encoder, "projector": projector, "predictor": predictor})
    group_batch_norm_(initialize_(network, generator), spec.bn_groups)
    network["momentum"] = momentum_copy(nn.Sequential(encoder, projector))
    view_a, view_b = (Views(**each.arguments()) for each in spec.both_views)
    return BYOL(network, (view_a, view_b), spec.encoder_momentum, spec.updates_per_step)
