"""Views a second: the engine's against kornia's, torchvision's on tensors, and torchvision's on Pillow images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import chains
from benchmarks.lab import Lab
from benchmarks.pictures import as_u8, smooth_images
from benchmarks.registry import Pair, benchmark
from benchmarks.timing import Timing, alternate, whole

TITLE = "Views"
NOTE = (
    "The paper's CIFAR chain, parameters drawn anew at each call. Images a second; the ratio is ours over theirs. "
    "Ours is given what the rival is given: float tensors, or eight-bit pixels where it starts from Pillow images or "
    "eight-bit tensors. Kornia draws one order of the jitter operations a batch, the others one an image. "
    "Torchvision v2's hue works in place, which autograd refuses: it has no gradient."
)
FLOATS, EIGHT_BITS = "engine", "engine, from eight bits"
KORNIA = {"kornia, slice": "slice", "kornia, resample": "resample"}
TORCHVISION, TORCHVISION_U8, PILLOW = "torchvision v2, floats", "torchvision v2, eight bits", "torchvision on Pillow"
RACES = ((FLOATS, *KORNIA), (FLOATS, TORCHVISION), (EIGHT_BITS, TORCHVISION_U8), (EIGHT_BITS, PILLOW))
"""Who runs against whom, ours first."""
DIFFERENTIABLE = (FLOATS, *KORNIA)
SIZES = (32, 224)


@benchmark("images/s", target=5)
def views_forward_vs_kornia(lab: Lab) -> Pair:
    """Views of 32 x 32 images, against kornia's faster way to crop."""
    return _against_kornia(lab, backward=False)


@benchmark("images/s", target=4)
def views_backward_vs_kornia(lab: Lab) -> Pair:
    """Views of 32 x 32 images and the gradient back to the images, against kornia's faster way to crop."""
    return _against_kornia(lab, backward=True)


@benchmark("images/s", target=15)
def views_forward_vs_pillow(lab: Lab) -> Pair:
    """Views of eight-bit 32 x 32 images, against torchvision on Pillow images."""
    rates = _rates(lab, 32, (EIGHT_BITS, PILLOW), backward=False)
    return Pair(rates[EIGHT_BITS], rates[PILLOW])


def rows(lab: Lab) -> list[dict[str, Any]]:
    """Return every chain at both sizes."""
    return [
        _row(size, race[0], rival, forward, backward)
        for size in SIZES
        for race in RACES
        for forward in [_rates(lab, size, race, backward=False)]
        for backward in [_rates(lab, size, race, backward=True) if race[1] in DIFFERENTIABLE else {}]
        for rival in race[1:]
    ]


def _row(size: int, ours: str, rival: str, forward: dict[str, float], backward: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"size": size, "rival": rival}
    for name, rates in {"forward": forward, "forward and backward": backward}.items():
        own, theirs = rates.get(ours), rates.get(rival)
        ratio = own / theirs if own and theirs else None
        row |= {f"{name}, ours": own, f"{name}, theirs": theirs, f"{name}, ratio": ratio}
    return row


def _against_kornia(lab: Lab, *, backward: bool) -> Pair:
    rates = _rates(lab, 32, (FLOATS, *KORNIA), backward=backward)
    return Pair(rates[FLOATS], max(rates[name] for name in KORNIA))


def _count(lab: Lab, size: int) -> int:
    return lab.small_images if size == 32 else lab.large_images


def _rates(lab: Lab, size: int, race: tuple[str, ...], *, backward: bool) -> dict[str, float]:
    timings = _race(lab, size, race, backward)
    return {name: _count(lab, size) / timing.median for name, timing in timings.items()}


@functools.cache
def _race(lab: Lab, size: int, race: tuple[str, ...], backward: bool) -> dict[str, Timing]:
    images = smooth_images(_count(lab, size), size)
    make = _with_gradient if backward else _forward
    works = {name: whole(make(name, images, size)) for name in race}
    return alternate(works, repeats=lab.repeats, warmups=2, clock=lab.clock)


def _forward(name: str, images: torch.Tensor, size: int) -> Callable[[], object]:
    chain = _chain(name, size)
    if name == PILLOW:
        pictures = chains.as_pillow(as_u8(images))
        return lambda: chain(pictures)
    given = as_u8(images) if name in (EIGHT_BITS, TORCHVISION_U8) else images
    return lambda: chain(given)


def _with_gradient(name: str, images: torch.Tensor, size: int) -> Callable[[], object]:
    chain, upstream = _chain(name, size), torch.ones_like(images)
    given = images.clone().requires_grad_()
    return lambda: torch.autograd.grad(chain(given), given, upstream)


def _chain(name: str, size: int) -> chains.Chain:
    if name in KORNIA:
        return chains.kornia_chain(size, KORNIA[name])
    if name == PILLOW:
        return chains.pillow_chain(size)
    if name in (TORCHVISION, TORCHVISION_U8):
        return chains.torchvision_chain(size)
    engine = chains.engine_chain(size)
    return engine if name == FLOATS else lambda images_u8: engine(images_u8.float() / 255)
