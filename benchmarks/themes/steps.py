"""A step of pretraining: as the engine takes it, of its network alone, and as a loop of lightly takes it."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch

from benchmarks.lab import Lab
from benchmarks.registry import Pair, benchmark
from benchmarks.timing import Timing, alternate, whole
from benchmarks.trainees import VICTIMS, bare, trainee

TITLE = "Pretraining steps"
NOTE = (
    "SimCLR, 32 x 32 pixels. The full step gathers a batch from resident eight-bit images, makes two views, computes "
    "the loss and its gradient and updates the weights; the bare network runs forwards and backwards on two views that "
    "are there already. Lightly's loop has the same network, batch, augmentations and optimizer, Pillow images in "
    "memory, a data loader with two workers (beside the threads stated), and a batch's loading is part of its step."
)
STEP, BARE = "full step", "bare network"
LIGHTLY, LIGHTLY_CONTIGUOUS = "lightly", "lightly, contiguous memory format"


@benchmark("ms", target=1.04, better="smaller")
def step_over_bare_resnet18(lab: Lab) -> Pair:
    """Full pretraining step over its network alone, ResNet-18 with the CIFAR stem."""
    return _milliseconds(lab, "resnet18", BARE)


@benchmark("ms", target=1.2, better="smaller")
def step_over_bare_tiny(lab: Lab) -> Pair:
    """Full pretraining step over its network alone, the mini studies' network."""
    return _milliseconds(lab, "tiny", BARE)


@benchmark("ms", target=2, ratio="theirs/ours")
def step_vs_lightly_tiny(lab: Lab) -> Pair:
    """Full pretraining step against a lightly loop in our memory format, the mini studies' network."""
    return _milliseconds(lab, "tiny", LIGHTLY)


@benchmark("ms", target=1, ratio="theirs/ours")
def step_vs_lightly_resnet18(lab: Lab) -> Pair:
    """Full pretraining step against a lightly loop in our memory format, ResNet-18 with the CIFAR stem."""
    return _milliseconds(lab, "resnet18", LIGHTLY)


def rows(lab: Lab) -> list[dict[str, Any]]:
    """Return every step of both networks."""
    found = []
    for network in VICTIMS:
        timings = step_timings(lab, network)
        for name, timing in timings.items():
            low, high = (1e3 * each for each in timing.quartiles)
            over = timing.median / timings[BARE].median
            found.append({"network": network, "batch": lab.batch, "step": name, "ms": 1e3 * timing.median})
            found[-1] |= {"lower quartile": low, "upper quartile": high, "over the bare network": over}
    return found


def _milliseconds(lab: Lab, network: str, theirs: str) -> Pair:
    if theirs == LIGHTLY:
        import lightly  # noqa: F401  says that it is missing
    timings = step_timings(lab, network)
    return Pair(1e3 * timings[STEP].median, 1e3 * timings[theirs].median)


@functools.cache
def step_timings(lab: Lab, network: str) -> dict[str, Timing]:
    """Time the steps of a network; lightly's where it is installed."""
    own = trainee(network, lab)
    alone = bare(own.training.victim, lab)
    is_slow = network == "resnet18"
    calls = 1 if is_slow else lab.calls
    works = {STEP: whole(own.step, calls=calls), BARE: whole(alone.train, calls=calls)}
    if importlib.util.find_spec("lightly"):
        from benchmarks.lightly_loop import PREFETCHED, lightly_loop

        formats = {LIGHTLY: torch.channels_last, LIGHTLY_CONTIGUOUS: torch.contiguous_format}
        for name in formats if lab.is_full else [LIGHTLY]:
            lead_in = 0 if is_slow else PREFETCHED
            works[name] = lightly_loop(network, lab, steps=calls, lead_in=lead_in, memory_format=formats[name])
    if not is_slow:
        return alternate(works, repeats=lab.repeats, warmups=1, clock=lab.clock)
    own.step()  # warmup enough: it takes from the system the memory that the others use after it
    return alternate(works, repeats=lab.slow_repeats, warmups=0, clock=lab.clock, budget=lab.slow_budget)
