"""The numbers a network computes with: float32, or half of that under autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Precision:
    """What matrix products and convolutions compute in; weights, losses and updates stay in float32."""

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which a network and its loss run."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Return what keeps float16 gradients from vanishing; it does nothing in the other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")

    @property
    def loss_scale(self) -> float:
        """Return the factor on a loss of which only the gradient's sign counts, for the same purpose."""
        return 1024.0 if self.name == "fp16" else 1.0


def in_float32(loss: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Compute a loss of embeddings in float32, whatever the network computed in."""

    @wraps(loss)
    def computed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        if not any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            return loss(*args, **kwargs)
        wide = [each.float() if isinstance(each, Tensor) and each.is_floating_point() else each for each in args]
        with torch.autocast(wide[0].device.type, enabled=False):  # type: ignore[attr-defined]
            return loss(*wide, **kwargs)  # type: ignore[arg-type]

    return computed
