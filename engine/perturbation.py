"""The perturbation delta: its ball, its step, the one place where it is applied, its 8-bit form.

Shapes: N images of the data set or of a batch, C channels, H x W pixels, K classes.
Images are in [0, 1] unless a name says ``u8``; ``levels`` are eight-bit grey levels, integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from engine.protocols import ImageSet, Poison

CHUNK = 1024  # images worked on at a time; only memory depends on it
ROUNDING = 1e-6
"""How far a value may leave [0, 1] by rounding alone: weights that sum to one in floats make 1.0000001 of white."""


class _ClipUnit(torch.autograd.Function):
    """Clip to [0, 1] with gradient 1 on the closed interval, a float's rounding included, and 0 outside."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward((x >= -ROUNDING) & (x <= 1 + ROUNDING))
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * inside


def clip_unit(x: Tensor) -> Tensor:
    """Clip to [0, 1]; the gradient is 1 on the closed interval and 0 outside it.

    Deviates: from ``torch.clamp``, whose gradient at the bounds is 1 up to torch 2.13 and 0 from 2.14 on
        (pytorch issue 195931). With 0, black and white pixels of an image would receive no gradient.
    """
    return _ClipUnit.apply(x)


def project_linf(delta_NCHW: Tensor, *, epsilon: float) -> Tensor:
    """Clip a perturbation onto the l-infinity ball.

    Units: epsilon in [0, 1] pixel range.
    Source: Madry et al. 2018, eq. 1.
    """
    return delta_NCHW.clamp(-epsilon, epsilon)


def add_poison(images_NCHW: Tensor, delta_NCHW: Tensor) -> Tensor:
    """Return the poisoned images, clipped to the valid pixel range."""
    return clip_unit(images_NCHW + delta_NCHW)


def descend_linf(delta_NCHW: Tensor, grad_NCHW: Tensor, *, step_size: float, epsilon: float) -> Tensor:
    """Take one step of projected gradient descent on the sign of the gradient.

    The projection comes after the step and outside any graph, so that a pixel on the bound moves back
    inside as soon as its gradient says so. A pixel with zero gradient stays where it is.

    Units: step_size and epsilon in [0, 1] pixel range.
    Source: He, Zha & Katabi 2023, Algorithm 1, lines 11 and 12; Madry et al. 2018.
    """
    return project_linf(delta_NCHW - step_size * grad_NCHW.sign(), epsilon=epsilon)


def max_level(epsilon: float) -> int:
    """Return the largest whole number of grey levels inside the budget."""
    # A budget may be written as a decimal: 0.031372549 * 255 falls just short of the 8 levels that it means.
    return math.floor(epsilon * 255 + 1e-6)


def quantize_levels(delta_NCHW: Tensor, *, epsilon: float) -> Tensor:
    """Round a perturbation to whole grey levels, inside the budget.

    Shapes: the result is int8 with the shape of ``delta_NCHW``.

    Raises:
        ValueError: epsilon is more than 127 levels, which int8 does not hold.
    """
    bound = max_level(epsilon)
    if bound > 127:
        raise ValueError(f"epsilon {epsilon} is {bound} grey levels; the largest supported is 127")
    return (delta_NCHW * 255).round().clamp(-bound, bound).to(torch.int8)


def chunks(count: int) -> Iterator[slice]:
    """Cut the rows of a data set into pieces, so that intermediate results stay small beside it."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def poison_u8(images_u8: Tensor, delta_NCHW: Tensor, *, epsilon: float, truncate: bool = False) -> Tensor:
    """Return the eight-bit images that an attacker releases.

    With rounding (the default) no pixel differs by more than the budget. ``truncate`` cuts the fraction
    off instead, as the official code's float-to-PIL conversion does: a pixel can then miss the budget by
    one level.

    Shapes: images_u8 uint8 [N, C, H, W]; the result likewise.
    """
    if truncate:
        poisoned = (images_u8 / 255 + project_linf(delta_NCHW, epsilon=epsilon)).clamp(0, 1) * 255
        return poisoned.to(torch.uint8)
    levels = quantize_levels(delta_NCHW, epsilon=epsilon)
    return (images_u8.to(torch.int16) + levels).clamp(0, 255).to(torch.uint8)


def initial_noise(
    init: str | Poison, images: ImageSet, *, granularity: str, epsilon: float, generator: torch.Generator
) -> Tensor:
    """Return the noise that an attack starts from, on the images' device: all of ``noise_parts``."""
    shape = noise_shape(images, granularity)
    noise = torch.empty(shape, dtype=torch.float16, device=images.images_u8.device)
    for rows, values in noise_parts(init, images, granularity=granularity, epsilon=epsilon, generator=generator):
        noise[rows] = values.to(noise.device)
    return noise


def noise_shape(images: ImageSet, granularity: str) -> tuple[int, ...]:
    """Return [N, C, H, W] for granularity ``sample``, [K, C, H, W] for ``class``."""
    count = len(images) if granularity == "sample" else len(images.class_names)
    return count, *images.images_u8.shape[1:]


def noise_parts(
    init: str | Poison, images: ImageSet, *, granularity: str, epsilon: float, generator: torch.Generator
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the noise that an attack starts from, in consecutive rows.

    A class-wise poison starts a sample-wise attack by giving each image its class's noise.

    Shapes: half precision, parts of what ``noise_shape`` says.
    Units: epsilon, so that the bounds are exact and half precision resolves 1/1000 of the budget.

    Raises:
        ValueError: a class-wise attack was asked to start from sample-wise noise, or the shapes differ.
    """
    shape = noise_shape(images, granularity)
    count = shape[0]
    if isinstance(init, str) and init not in ("zero", "uniform"):
        raise ValueError(f"init must be 'zero', 'uniform' or a poison, got {init!r}")
    spreads = isinstance(init, Poison) and init.granularity == "class" and granularity == "sample"
    if isinstance(init, Poison):
        given = (count if spreads else len(init.noise), *init.noise.shape[1:])
        # With as many images as classes the shapes agree; the meaning of a row still does not.
        if given != shape or (init.granularity == "sample" and granularity == "class"):
            raise ValueError(
                f"{granularity}-wise noise of shape {shape} cannot start from "
                f"{init.granularity}-wise noise of shape {tuple(init.noise.shape)}"
            )
    for rows in chunks(count):
        part = rows.stop - rows.start, *shape[1:]
        if isinstance(init, Poison):
            delta = init.delta(images.labels[rows].to(init.noise.device) if spreads else rows)
            yield rows, (project_linf(delta, epsilon=epsilon).cpu() / epsilon).half()
        elif init == "uniform":
            yield rows, torch.empty(part).uniform_(-1, 1, generator=generator).half()
        else:
            yield rows, torch.zeros(part, dtype=torch.float16)


def stratified_mask(labels_N: Tensor, *, fraction: float, generator: torch.Generator) -> Tensor:
    """Choose the images to perturb: the same fraction of every class.

    Shapes: labels_N integer; the result bool [N].
    Units: fraction in [0, 1]; each class's count is rounded to the nearest image.
    """
    mask = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique():
        members = (labels_N == label).nonzero().squeeze(1)
        chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
        mask[members[chosen]] = True
    return mask
