"""SimCLR: two views of an image attract, all other images of the batch repel.

Name: SimCLR
Paper: Chen, Kornblith, Norouzi & Hinton, "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, with the settings of He, Zha & Katabi, ICLR 2023, Table 9.
Threat model: trains on the released images without labels.
Official code: kaiwenzha/contrastive-poisoning, cl_algs.py and losses.py.
Deviations: the factor on the loss is a field; the official code multiplies by temperature / 0.07 and, on
    four GPUs, divides the gradient by four.
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
    """SimCLR; the defaults are the paper's CIFAR settings."""

    kind: Literal["simclr"]
    backbone: spec_of("backbones")  # type: ignore[valid-type]
    lr: Annotated[float, Field(gt=0)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 0.5
    # (0.5 / 0.07) / 4: what the official code's loss amounts to on four GPUs.
    loss_scale: Annotated[float, Field(gt=0)] = 1.7857
    projector_hidden: Positive = 512
    projector_out: Positive = 128


@dataclass(frozen=True)
class SimCLR(Victim):
    """See the module."""

    network: nn.ModuleDict
    views: tuple[Views, Views]
    temperature: float
    loss_scale: float
    bn_groups: int = 1

    @property
    def encoder(self) -> nn.Module:
        """The backbone, without the projector."""
        return self.network["encoder"]

    def embed(self, view: Tensor) -> Tensor:
        """Return the projections [B, D]."""
        projected: Tensor = self.network["projector"](self.encoder(view))
        return projected

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the scaled NT-Xent loss; both views share one forward pass, hence batch statistics.

        No branch is a target: the gradient passes both in any case.
        """
        from engine.crossing import everyones
        from engine.losses import nt_xent
        from engine.networks import join_views, part_views

        z = self.embed(join_views(views, self.bn_groups))
        za_BD, zb_BD = (everyones(part) for part in part_views(z, 2, self.bn_groups))
        return self.loss_scale * nt_xent(za_BD, zb_BD, temperature=self.temperature)


def build(spec: Spec, *, source: Source, generator: torch.Generator) -> SimCLR:
    """Build a SimCLR learner with fresh weights."""
    from torch import nn

    from engine.networks import initialize_, relu_head
    from engine.normalization import group_batch_norm_
    from engine.views import Views

    encoder = build_plugin("backbones", spec.backbone, source=source)
    projector = relu_head(encoder.features, spec.projector_hidden, spec.projector_out)
    network = nn.ModuleDict({"encoder": encoder, "projector": projector})
    group_batch_norm_(initialize_(network, generator), spec.bn_groups)
    view_a, view_b = (Views(**each.arguments()) for each in spec.both_views)
    return SimCLR(network, (view_a, view_b), spec.temperature, spec.loss_scale, spec.bn_groups)
