"""Momentum encoders: a second network that follows the trained one, and the gradient that may pass through it."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from engine.protocols import Gradient


def momentum_copy(network: nn.Module) -> nn.Module:
    """Return a copy that no optimizer trains."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def follow_(momentum_network: nn.Module, *parts: nn.Module, momentum: float) -> None:
    """Move a momentum network a step towards the trained parts that it copies: parameters, not batch-norm statistics.

    Source: He et al. 2020 (MoCo), eq. 2; Grill et al. 2020 (BYOL), eq. 1.
    """
    behind: list[Tensor] = list(momentum_network.parameters())
    ahead: list[Tensor] = [parameter for part in parts for parameter in part.parameters()]
    torch._foreach_lerp_(behind, ahead, 1 - momentum)


def target_branch(gradient: Gradient) -> AbstractContextManager[None]:
    """Run the branch whose output is the target of the other: with a gradient only under ``dual``.

    Source: He, Zha & Katabi 2023, section 4.3: noise steps send their gradient through both branches.
    """
    return torch.set_grad_enabled(gradient == "dual" and torch.is_grad_enabled())
