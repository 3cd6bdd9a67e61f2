"""Copies to a device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor to a device, and to a type where one is given.

    An ordinary copy to a GPU waits until the GPU has done all its work; from pinned memory it does not.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.to(dtype or tensor.dtype).pin_memory().to(device, non_blocking=True)
    return tensor.to(device, dtype or tensor.dtype)
