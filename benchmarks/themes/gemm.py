"""How much of the machine's matrix products a ResNet-18 step gets."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lab import Lab
from benchmarks.registry import Pair, benchmark
from benchmarks.themes.steps import BARE, STEP, step_timings
from benchmarks.timing import alternate, whole
from benchmarks.trainees import bare, victim_of

TITLE = "Use of the processor"
NOTE = (
    "Operations of the bare network's convolutions and matrix products, forwards and backwards, over the time of the "
    "ResNet-18 step; the peak is the fastest of some square float32 matrix products with the same threads."
)
COUNTED = 2  # images: the operations grow in proportion


@benchmark("GFLOP/s", target=None)
def gemm_fraction_resnet18(lab: Lab) -> Pair:
    """Operations a second in the ResNet-18 pretraining step, over the machine's float32 matrix products."""
    seconds = step_timings(lab, "resnet18")[STEP].median
    return Pair(step_flops("resnet18", lab.batch) / seconds / 1e9, peak(lab) / 1e9)


def rows(lab: Lab) -> list[dict[str, Any]]:
    """Return the rates of the full step, of the bare network and of a matrix product."""
    flops, timings = step_flops("resnet18", lab.batch), step_timings(lab, "resnet18")
    rates = {name: flops / timings[name].median for name in (STEP, BARE)} | {"matrix product": peak(lab)}
    return [{"what": name, "GFLOP/s": rate / 1e9, "of the peak": rate / peak(lab)} for name, rate in rates.items()]


@functools.cache
def step_flops(network: str, batch: int) -> float:
    """Count the floating-point operations of a bare step, two views of a batch."""
    lab = Lab(batch=COUNTED)
    alone = bare(victim_of(network, lab), lab)
    with FlopCounterMode(display=False) as counter:
        alone.train()
    return counter.get_total_flops() * batch / COUNTED


@functools.cache
def peak(lab: Lab) -> float:
    """Return the operations a second of the fastest square matrix product."""
    rates = []
    for size in lab.product_sizes:
        left, right = torch.randn(2, size, size).unbind()
        product = whole(functools.partial(torch.mm, left, right))
        seconds = alternate({"mm": product}, repeats=lab.repeats, warmups=1, clock=lab.clock)["mm"].seconds
        rates.append(2 * size**3 / min(seconds))
    return max(rates)
