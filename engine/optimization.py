"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from engine import processes


def trained(network: nn.Module) -> list[Tensor]:
    """Return the parameters that an optimizer trains: a momentum network's require no gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def sgd(parameters: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Build stochastic gradient descent as every experiment of the paper uses it (no Nesterov, no LARS).

    Fused: one pass over the weights, and no wait for a GPU where float16 gradients are scaled.
    """
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def cosine_lr(progress: float, *, lr: float, final_lr_rel: float) -> float:
    """Return the cosine-annealed learning rate.

    Units: progress from 0 (start) to 1 (end); final_lr_rel is the last rate relative to the first.
    Source: Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    final = lr * final_lr_rel
    return final + (lr - final) * (1 + math.cos(math.pi * progress)) / 2


def warmup_cosine_lr(
    step: int, *, steps_per_epoch: int, epochs: int, warmup_epochs: int, lr: float, final_lr_rel: float
) -> float:
    """Return the rate of one step: linear warm-up per step, then the cosine, constant within an epoch.

    Source: the official code's schedule (epochs count from 1; the warm-up starts at 0.01 and ends on the
        cosine's value of its last epoch).
    """
    epoch = step // steps_per_epoch + 1
    if epoch > warmup_epochs:
        return cosine_lr(epoch / epochs, lr=lr, final_lr_rel=final_lr_rel)
    start = min(0.01, lr)
    end = cosine_lr(warmup_epochs / epochs, lr=lr, final_lr_rel=final_lr_rel)
    return start + (end - start) * step / (warmup_epochs * steps_per_epoch)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    *,
    max_norm: float | None = None,
) -> None:
    """Take one optimizer step down the loss, its gradient scaled on the way where a scaler says so.

    Where processes share a run, the loss is the mean of theirs.

    ``max_norm`` clips the norm of the whole gradient.
    """
    optimizer.zero_grad(set_to_none=True)
    scaled = loss if scaler is None else scaler.scale(loss)
    scaled.backward()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    processes.average_([weight.grad for weight in weights if weight.grad is not None])
    if max_norm is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(weights, max_norm)
    if scaler is None:
        optimizer.step()
        return
    scaler.step(optimizer)
    scaler.update()
