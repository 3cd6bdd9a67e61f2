"""Batch normalisation over the whole batch, over groups of it, or over the batches of all processes.

Official poison generation runs on four GPUs without synchronisation, so that 128 images of each are normalised
together; a run on one GPU does the same with four groups ("ghost" batch norm, Hoffer et al. 2017). Official training
does synchronise: with one group, several processes of ``torch.distributed`` share the statistics of their joint batch.

Shapes: B rows in G equal groups, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import processes
from engine.crossing import everyones


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """What both kinds of layer share."""

    groups: int = 1
    """How many equal parts of consecutive rows a training batch is normalised in.

    They are parts of the whole batch. Where processes share it, each works on whole groups; one group alone is
    synchronised between them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over each group in training, with the running statistics otherwise."""
        if self.training and self.groups > 1:
            return self._forward_in_groups(x)
        if self.training and processes.world() > 1:
            return self._forward_with_others(x)
        return super().forward(x)

    def _forward_with_others(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of all processes' batches, which need not be of one size.

        Every process must come here as often as the others: each waits for all.
        Each sends its own mean and variance, which are joined: a sum of squares would lose small variances.

        Source: Chan, Golub & LeVeque 1983, the variance of joined samples.
        Deviates: from nn.SyncBatchNorm, which runs on GPUs alone.
        """
        self._check_input_dim(x)
        assert self.running_mean is not None  # our networks all track their statistics
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))  # half precision cannot hold a sum
        over, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        own_var, own_mean = torch.var_mean(wide, over, correction=0)
        rows = wide.new_tensor([x.numel() / x.shape[1]])
        # One message a layer and direction: in a small network they take longer than the arithmetic.
        every = everyones(torch.cat([own_mean, own_var, rows])[None])
        means, variances, counts = every.split([x.shape[1], x.shape[1], 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        var = (counts * (variances + (means - mean).square())).sum(dim=0) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        return ((wide - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _forward_in_groups(self, x: Tensor) -> Tensor:
        """Normalise each group by its own statistics; the running ones follow the mean over the groups.

        Raises:
            ValueError: the batch does not fall into equal groups.
        """
        groups, (rows, channels) = processes.own_groups(self.groups), x.shape[:2]
        if rows % groups:
            raise ValueError(f"a batch of {rows} does not fall into {groups} equal batch-norm groups")
        self._check_input_dim(x)
        assert self.running_mean is not None  # our networks all track their statistics
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var = self.running_mean.repeat(groups), self.running_var.repeat(groups)
        wide = x.unflatten(0, (groups, rows // groups)).transpose(0, 1).flatten(1, 2)
        y = F.batch_norm(
            wide, mean, var, self.weight.repeat(groups), self.bias.repeat(groups), True, self.momentum, self.eps
        )
        with torch.no_grad():
            self.running_mean.copy_(processes.mean(mean.view(groups, channels).mean(dim=0)))
            self.running_var.copy_(processes.mean(var.view(groups, channels).mean(dim=0)))
            self.num_batches_tracked.add_(1)
        return y.unflatten(1, (groups, channels)).transpose(0, 1).flatten(0, 1)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch norm of vectors [B, C]."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch norm of images [B, C, H, W], whose evaluation mode is one multiply-add.

    Deviates: from torch only in speed. Its own evaluation path leaves the channels-last layout in the
        backward pass, which attacks take at every noise step; on a CPU that costs a third of the step.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise over each group in training, with the running statistics otherwise."""
        if self.training:
            return super().forward(x_BCHW)
        assert self.running_var is not None
        assert self.running_mean is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x_BCHW * scale[:, None, None] + shift[:, None, None]


def group_batch_norm_(network: nn.Module, groups: int) -> nn.Module:
    """Let every batch-norm layer of a network normalise its training batches in equal groups.

    Raises:
        TypeError: a batch-norm layer is not one of this module's.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            module.groups = groups
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise TypeError(f"{name!r} is a {type(module).__name__} of torch, which knows no groups")
    return network


def own_batch_norm_(network: nn.Module) -> nn.Module:
    """Put our batch norm of images in place of torch's in a network of another library, and return the network."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, BatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum))
    return network


class BatchNormSets(nn.Module):
    """Several sets of batch-norm layers for one network: weights and statistics apart for inputs unlike each other.

    The network carries one of them, under its plain names. This module holds the others, which begin as copies, and
    belongs into the same tree as the network.

    Source: Xie et al. 2020 (AdvProp).
    """

    def __init__(self, network: nn.Module, names: Sequence[str], *, own: str) -> None:
        super().__init__()
        self.own = own
        self.places = [
            (parent, name)
            for parent in network.modules()
            for name, child in parent.named_children()
            if isinstance(child, _BatchNorm)
        ]
        layers = [getattr(parent, name) for parent, name in self.places]
        self.others = nn.ModuleDict({name: nn.ModuleList(copy.deepcopy(layers)) for name in names if name != own})
        self.sets: dict[str, Any] = {own: layers, **self.others}

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Let the network normalise by a set; afterwards, whatever happened, it carries its own one again."""
        layers = self.sets[name]
        try:
            self._put(layers)
            yield
        finally:
            self._put(self.sets[self.own])

    def _put(self, layers: Iterable[nn.Module]) -> None:
        for (parent, name), layer in zip(self.places, layers, strict=True):
            setattr(parent, name, layer)
