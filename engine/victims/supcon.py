"""SupCon: views of one class attract, all other images of the batch repel.

Name: SupCon
Paper: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2; settings of its CIFAR-10 run.
Threat model: trains on the released images with their labels.
Official code: HobbitLong/SupContrast (learning rate 0.5, temperature 0.1, cosine, batch 1024).
Deviations: not in the reference work; batches of 512, so that it is compared with SimCLR at the same size; the loss
    is not multiplied by temperature / 0.07 as the official code does.
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
    """SupCon."""

    kind: Literal["supcon"]
    backbone: spec_of("backbones")  # type: ignore[valid-type]
    lr: Annotated[float, Field(gt=0)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.1
    projector_hidden: Positive = 512
    projector_out: Positive = 128


@dataclass(frozen=True)
class SupCon(Victim):
    """See the module."""

    network: nn.ModuleDict
    views: tuple[Views, Views]
    temperature: float
    bn_groups: int

    @property
    def encoder(self) -> nn.Module:
        """The backbone, without the projector."""
        return self.network["encoder"]

    def embed(self, view: Tensor) -> Tensor:
        """Return the projections [B, D]."""
        projected: Tensor = self.network["projector"](self.encoder(view))
        return projected

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the supervised contrastive loss; both views share one forward pass."""
        from engine.crossing import everyones
        from engine.losses import sup_con
        from engine.networks import join_views, part_views

        z = self.embed(join_views(views, self.bn_groups))
        za_BD, zb_BD = (everyones(part) for part in part_views(z, 2, self.bn_groups))
        return sup_con(za_BD, zb_BD, everyones(labels), temperature=self.temperature)


def build(spec: Spec, *, source: Source, generator: torch.Generator) -> SupCon:
    """Build a SupCon learner with fresh weights."""
    from torch import nn

    from engine.networks import initialize_, relu_head
    from engine.normalization import group_batch_norm_
    from engine.views import Views

    encoder = build_plugin("backbones", spec.backbone, source=source)
    projector = relu_head(encoder.features, spec.projector_hidden, spec.projector_out)
    network = nn.ModuleDict({"encoder": encoder, "projector": projector})
    group_batch_norm_(initialize_(network, generator), spec.bn_groups)
    view_a, view_b = (Views(**each.arguments()) for each in spec.both_views)
    return SupCon(network, (view_a, view_b), spec.temperature, spec.bn_groups)
