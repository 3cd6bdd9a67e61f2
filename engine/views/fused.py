"""Crop, flip, jitter and grayscale of a batch on a CPU in one compiled pass, forwards and backwards.

``fused.c`` beside this file is compiled by ``engine.native``. Where there is no compiler, the same views come from
torch's own operations, ten times as slowly.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.native import in_threads
from engine.native import library as compiled
from engine.views.images import Images, Ragged, sizes_of

SOURCE = Path(__file__).with_name("fused.c")


class _Call(ctypes.Structure):
    """``Call`` of fused.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("images", "boxes", "factors", "offsets", "sizes", "order")),
        *((name, ctypes.c_void_p) for name in ("flip", "grey")),
        *((name, ctypes.c_int64) for name in ("out", "jitter")),
    ]


def library() -> ctypes.CDLL | None:
    """Return the compiled code, or None, with a warning, where it cannot be made."""
    loaded = compiled(SOURCE, "views")
    if loaded is not None:
        pointers = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        loaded.views_forward.argtypes = pointers
        loaded.views_backward.argtypes = (*pointers, ctypes.c_void_p)
    return loaded


def can_fuse(images: Images) -> bool:
    """Tell whether these images can take the compiled path: floats on a CPU with a compiler."""
    return images.device.type == "cpu" and images.dtype == torch.float32 and library() is not None


@dataclass(frozen=True)
class _Plan:
    """What happens to each image, in the types that fused.c reads.

    Shapes: sizes int64 [B, 2], offsets int64 [B], boxes float [B, 4], flip and grey bool [B], order int64 and
    factors float [B, 4], or empty without a jitter.
    """

    out: int
    sizes: Tensor
    offsets: Tensor
    boxes: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor

    def run(self, name: str, pixels: Tensor, *results: Tensor) -> None:
        """Call the compiled code, the batch cut over torch's threads."""
        function = getattr(library(), name)
        parts = (self.boxes, self.factors, self.offsets, self.sizes, self.order, self.flip, self.grey)
        pointers = [part.data_ptr() for part in (pixels, *parts)]
        call = ctypes.byref(_Call(*pointers, self.out, int(len(self.order) > 0)))
        targets = [result.data_ptr() for result in results]
        in_threads(lambda begin, end: function(call, begin, end, *targets), len(self.boxes))


class _Fused(torch.autograd.Function):
    """Views of images; the backward pass computes them again instead of keeping what lies between."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pixels: Tensor, plan: _Plan) -> Tensor:
        pixels = pixels.contiguous()
        ctx.save_for_backward(pixels)
        ctx.plan = plan  # type: ignore[attr-defined]
        views = torch.empty(len(plan.boxes), 3, plan.out, plan.out, memory_format=torch.channels_last)
        plan.run("views_forward", pixels, views)
        return views

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (pixels,) = ctx.saved_tensors  # type: ignore[attr-defined]
        pixel_grads = torch.empty_like(pixels)
        grads = grad.contiguous(memory_format=torch.channels_last)
        ctx.plan.run("views_backward", pixels, grads, pixel_grads)  # type: ignore[attr-defined]
        return pixel_grads, None


def fused_views(
    images: Images, boxes_B4: Tensor, flip_B: Tensor, jitter: tuple[Tensor, Tensor] | None, grey_B: Tensor, out: int
) -> Tensor:
    """Return views [B, 3, out, out], channels last, differentiable in the images; ``jitter`` is (order, factors).

    Raises:
        ValueError: the parameters are of another number of images, or these have not three channels.
    """
    # The compiled code would read what lies behind the tensors.
    if len(boxes_B4) != len(images):
        raise ValueError(f"parameters of {len(boxes_B4)} images for {len(images)}")
    if isinstance(images, Tensor) and images.shape[1] != 3:
        raise ValueError(f"views take images [B, 3, H, W], got {list(images.shape)}")
    if isinstance(images, Ragged):
        pixels, offsets = images.pixels, images.offsets
    else:
        pixels, offsets = images, torch.arange(len(images)) * images.shape[1:].numel()
    order, factors = jitter or (torch.empty(0, 4, dtype=torch.long), torch.empty(0, 4))
    parts = (sizes_of(images), offsets, boxes_B4.float(), flip_B, order, factors.float(), grey_B)
    return _Fused.apply(pixels, _Plan(out, *[part.contiguous() for part in parts]))
