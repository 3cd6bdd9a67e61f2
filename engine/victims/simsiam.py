"""SimSiam: one network predicts what it makes of the other view, whose gradient is stopped.

Name: SimSiam
Paper: Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, section 3 and appendix D (CIFAR-10).
Threat model: trains on the released images without labels.
Official code: facebookresearch/simsiam (ImageNet alone).
Deviations: not in the reference work; batch norm at the projector's end keeps its scale and shift; the predictor's
    rate follows the cosine too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import Gradient, Source, Victim
from engine.spec import Positive
from engine.victimspec import TwoViewVictimSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.views import Views


class Spec(TwoViewVictimSpec):
    """SimSiam; the defaults are its paper's CIFAR-10 settings (800 epochs, base rate 0.03 for 256 images)."""

    kind: Literal["simsiam"]
    backbone: spec_of("backbones")  # type: ignore[valid-type]
    epochs: Positive = 800
    lr: Annotated[float, Field(gt=0)] = 0.06
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    projector_out: Positive = 2048
    predictor_hidden: Positive = 512


@dataclass(frozen=True)
class SimSiam(Victim):
    """See the module."""

    network: nn.ModuleDict
    views: tuple[Views, Views]

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        return self.network["encoder"]

    def embed(self, view: Tensor) -> Tensor:
        """Return the projections [B, D]."""
        projected: Tensor = self.network["projector"](self.encoder(view))
        return projected

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return minus the mean cosine of predictions and targets over both directions, from -1 to 1."""
        from engine.losses import negative_cosine

        za, zb = (self.embed(view) for view in views)
        pa, pb = (self.network["predictor"](z) for z in (za, zb))
        ta, tb = (za, zb) if gradient == "dual" else (za.detach(), zb.detach())
        return (negative_cosine(pa, tb) + negative_cosine(pb, ta)) / 2


def build(spec: Spec, *, source: Source, generator: torch.Generator) -> SimSiam:
    """Build a SimSiam learner with fresh weights."""
    from torch import nn

    from engine.networks import batch_norm_head, initialize_
    from engine.normalization import BatchNorm1d, group_batch_norm_
    from engine.views import Views

    encoder = build_plugin("backbones", spec.backbone, source=source)
    projector = batch_norm_head(encoder.features, spec.projector_out, spec.projector_out)
    projector.append(BatchNorm1d(spec.projector_out))
    predictor = batch_norm_head(spec.projector_out, spec.predictor_hidden, spec.projector_out)
    network = nn.ModuleDict({"encoder": encoder, "projector": projector, "predictor": predictor})
    group_batch_norm_(initialize_(network, generator), spec.bn_groups)
    view_a, view_b = (Views(**each.arguments()) for each in spec.both_views)
    return SimSiam(network, (view_a, view_b))
