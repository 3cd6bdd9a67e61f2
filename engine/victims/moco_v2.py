"""MoCo v2: a query finds its key, made by a momentum encoder, among the keys of a queue.

Name: MoCo v2
Paper: Chen, Fan, Girshick & He, "Improved Baselines with Momentum Contrastive Learning", 2020; He et al. 2020
    (MoCo), Algorithm 1; with the settings of He, Zha & Katabi, ICLR 2023, Table 9.
Threat model: trains on the released images without labels.
Official code: kaiwenzha/contrastive-poisoning, cl_algs.py and losses.py.
Deviations: batch-norm groups are shuffled by one fixed transposition, which puts images of every query group into
    every key group: the batch's order is random already. The momentum encoder moves after a step, not before the
    next, which is the same. ``symmetric`` takes the mean of both directions, and both views' keys enter the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

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
    """MoCo v2; the defaults are the paper's CIFAR settings."""

    kind: Literal["moco_v2"]
    backbone: spec_of("backbones")  # type: ignore[valid-type]
    lr: Annotated[float, Field(gt=0)] = 0.3
    temperature: Annotated[float, Field(gt=0)] = 0.2
    # 0.2 / 0.07: the factor in the official code's loss.
    loss_scale: Annotated[float, Field(gt=0)] = 2.8571
    encoder_momentum: Unit = 0.99
    queue: Positive = 4096
    # Query view_b against view_a's keys too. Official code: no.
    symmetric: bool = False
    # Where several batch-norm groups exist (bn_group_size), keys are normalised in other groups than queries.
    # Official code: yes, but not while it makes dual-branch poison.
    shuffle_bn: bool = True
    projector_hidden: Positive = 512
    projector_out: Positive = 128

    @property
    def keys_per_step(self) -> int:
        """Return how many keys enter the queue at a step."""
        return self.batch_size * (2 if self.symmetric else 1)

    @model_validator(mode="after")
    def _queue_holds_whole_batches(self) -> Spec:
        if self.queue % self.keys_per_step:
            per_step = "2 x batch_size" if self.symmetric else "batch_size"
            raise ValueError(
                f"queue: must be a multiple of the {self.keys_per_step} keys of a step ({per_step}), given {self.queue}"
            )
        return self


@dataclass
class MoCoV2(Victim):
    """See the module.

    ``loss`` leaves its keys in ``keys``, from where ``after_step`` takes them into the queue.
    """

    network: nn.ModuleDict
    views: tuple[Views, Views]
    spec: Spec
    keys: Tensor | None = None

    @property
    def encoder(self) -> nn.Module:
        """The query backbone, without the projector."""
        return self.network["encoder"]

    def embed(self, view: Tensor) -> Tensor:
        """Return the queries [B, D]."""
        projected: Tensor = self.network["projector"](self.encoder(view))
        return projected

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the scaled InfoNCE loss of view_a's queries and view_b's keys; each view is a pass of its own."""
        import torch

        from engine.crossing import everyones

        directions = [tuple(views), tuple(views)[::-1]] if self.spec.symmetric else [tuple(views)]
        keys = [self._keys(second, gradient) for _, second in directions]
        losses = [self._direction(first, k_BD) for (first, _), k_BD in zip(directions, keys, strict=True)]
        self.keys = torch.cat([everyones(k_BD.detach()) for k_BD in keys])
        return self.spec.loss_scale * torch.stack(losses).mean()

    def _direction(self, view: Tensor, k_BD: Tensor) -> Tensor:
        from engine.losses import info_nce

        q_BD = self.embed(view)
        return info_nce(q_BD, k_BD, self.network.get_buffer("queue"), temperature=self.spec.temperature)

    def _keys(self, view: Tensor, gradient: Gradient) -> Tensor:
        """Return the keys of a view, made in batch-norm groups across those of the queries."""
        from engine.crossing import everyones
        from engine.momentum import target_branch
        from engine.processes import own

        groups = self.spec.bn_groups if self.spec.shuffle_bn and self.network.training else 1
        with target_branch(gradient):
            if groups == 1:
                return self.network["momentum"](view)
            shuffled = everyones(view).unflatten(0, (groups, -1)).transpose(0, 1).flatten(0, 1)
            keys = everyones(self.network["momentum"](own(shuffled)))
            return own(keys.unflatten(0, (-1, groups)).transpose(0, 1).flatten(0, 1))

    def after_step(self) -> None:
        """Let the momentum encoder follow, and put the last keys into the queue in place of the oldest."""
        import torch

        from engine.momentum import follow_

        network, momentum = self.network, self.spec.encoder_momentum
        follow_(network["momentum"], network["encoder"], network["projector"], momentum=momentum)
        if self.keys is not None:
            queue = network.get_buffer("queue")
            queue.copy_(torch.cat([self.keys.to(queue.dtype), queue[: len(queue) - len(self.keys)]]))
            self.keys = None


def build(spec: Spec, *, source: Source, generator: torch.Generator) -> MoCoV2:
    """Build a MoCo v2 learner with fresh weights and a queue of random directions."""
    import torch
    from torch import nn

    from engine.momentum import momentum_copy
    from engine.networks import initialize_, relu_head
    from engine.normalization import group_batch_norm_
    from engine.views import Views

    encoder = build_plugin("backbones", spec.backbone, source=source)
    projector = relu_head(encoder.features, spec.projector_hidden, spec.projector_out)
    network = nn.ModuleDict({"encoder": encoder, "projector": projector})
    group_batch_norm_(initialize_(network, generator), spec.bn_groups)
    network["momentum"] = momentum_copy(nn.Sequential(encoder, projector))
    queue = torch.randn(spec.queue, spec.projector_out, generator=generator)
    network.register_buffer("queue", nn.functional.normalize(queue, dim=1))
    view_a, view_b = (Views(**each.arguments()) for each in spec.both_views)
    return MoCoV2(network, (view_a, view_b), spec)
