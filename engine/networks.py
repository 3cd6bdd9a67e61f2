"""Pieces that networks are made of: the encoder's input normalisation, heads, seeded initial weights.

Shapes: B images of C x H x W in [0, 1], F features, D projection dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.normalization import BatchNorm1d
from engine.processes import own_groups


class Encoder(nn.Module):
    """A backbone that takes images in [0, 1] and normalises them itself.

    The normalisation belongs to the encoder, not to the views: attacks, defenses and probes then all
    speak of the same pixel range, and an encoder cannot be probed with another normalisation by mistake.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, *, mean: Sequence[float], std: Sequence[float], features: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the features [B, F]."""
        return self.backbone((images_BCHW - self.mean) / self.std)


def relu_head(features: int, hidden: int, out: int) -> nn.Sequential:
    """Build the projector of SimCLR and MoCo v2: linear, ReLU, linear, no batch norm.

    Source: Chen et al. 2020 (SimCLR), section 4.2; the official code uses it with 512-512-128.
    """
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))


def batch_norm_head(features: int, hidden: int, out: int) -> nn.Sequential:
    """Build the projector and the predictor of BYOL: linear, batch norm, ReLU, linear.

    Source: Grill et al. 2020 (BYOL), section 3.3; the official code uses it with 4096 and 256.
    """
    return nn.Sequential(
        nn.Linear(features, hidden), BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


def join_views(views: Sequence[Tensor], groups: int = 1) -> Tensor:
    """Put the views of a batch into one batch; each of its ``groups`` equal parts has all views of its images.

    Where processes share the batch, each joins what it has of it: whole groups.

    Shapes: V views [B, ...] to [V * B, ...].
    """
    if groups == 1:
        return torch.cat(tuple(views))
    return torch.stack(tuple(views)).unflatten(1, (own_groups(groups), -1)).transpose(0, 1).flatten(0, 2)


def part_views(joined: Tensor, count: int, groups: int = 1) -> tuple[Tensor, ...]:
    """Undo ``join_views`` on what a network made of it: [V * B, D] to V tensors [B, D]."""
    if groups == 1:
        return joined.chunk(count)
    return joined.unflatten(0, (own_groups(groups), count, -1)).transpose(0, 1).flatten(1, 2).unbind()


EMBEDDINGS = {"class_token", "pos_embedding"}
"""Parameters of transformers that are states of tokens, and belong to no layer."""


def initialize_(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every weight of a network from one stream, in the order of its modules.

    Convolutions: Kaiming normal, fan-out, as torchvision's ResNet; the fan-out of a convolution in groups is that
    of one group, where torch counts all of them and the signal of a depthwise one fades. Linear layers: torch's
    own default, uniform within 1 / sqrt(fan_in). Batch and layer norm: weight 1, bias 0. Attention: the joint
    projection of queries, keys and values Xavier uniform, torch's own default. Class token and position
    embedding: normal, deviation 0.02 (Touvron et al. 2021, official code).

    Raises:
        TypeError: a module has parameters that none of the rules covers.
    """
    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            module.weight.data.mul_(math.sqrt(module.groups))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.MultiheadAttention) and own.keys() == {"in_proj_weight", "in_proj_bias"}:
            nn.init.xavier_uniform_(module.in_proj_weight, generator=generator)
            nn.init.zeros_(module.in_proj_bias)
        elif own.keys() <= EMBEDDINGS:
            for embedding in own.values():
                nn.init.normal_(embedding, std=0.02, generator=generator)
        else:
            raise TypeError(f"no rule to initialise {name!r}, a {type(module).__name__}")
    return network
