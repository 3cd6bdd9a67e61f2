"""Supervised learning: an encoder and a linear classifier minimise the cross-entropy.

Name: Supervised
Paper: the SL victim of He, Zha & Katabi, ICLR 2023, Table 4 and Figure 1; its recipe is not stated there, and is that
    of Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021 (official code: 200 epochs, cosine).
Threat model: trains on the released images with their labels; its accuracy is its own classifier's after the last
    epoch.
Official code: lhfowl/adversarial_poisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from engine.plugins import build as build_plugin
from engine.plugins import spec_of
from engine.protocols import Gradient, Source, Victim
from engine.spec import Positive
from engine.victimspec import VictimSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.views import Views


class Spec(VictimSpec):
    """Supervised learning; give it ``views: {preset: weak}`` (crop with padding 4, flip)."""

    classifies: ClassVar[bool] = True

    kind: Literal["supervised"]
    backbone: spec_of("backbones")  # type: ignore[valid-type]
    epochs: Positive = 200
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    final_lr_rel: Annotated[float, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class Supervised(Victim):
    """See the module."""

    network: nn.ModuleDict
    views: tuple[Views]

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        return self.network["encoder"]

    @property
    def classifier(self) -> nn.Module:
        """The linear head."""
        return self.network["classifier"]

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the cross-entropy of the one view."""
        from torch.nn.functional import cross_entropy

        (view,) = views
        return cross_entropy(self.classifier(self.encoder(view)), labels)


def build(spec: Spec, *, source: Source, generator: torch.Generator) -> Supervised:
    """Build a supervised learner with fresh weights."""
    from torch import nn

    from engine.networks import initialize_
    from engine.normalization import group_batch_norm_
    from engine.views import Views

    encoder = build_plugin("backbones", spec.backbone, source=source)
    network = nn.ModuleDict({"encoder": encoder, "classifier": nn.Linear(encoder.features, source.num_classes)})
    group_batch_norm_(initialize_(network, generator), spec.bn_groups)
    return Supervised(network, (Views(**spec.views.arguments()),))
