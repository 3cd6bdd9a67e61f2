"""Memory that sample-wise noise takes."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.lab import Lab
from benchmarks.registry import Pair, benchmark

TITLE = "Memory of sample-wise noise"
NOTE = (
    "What the peak of the process's resident memory adds while one round of sample-wise Contrastive Poisoning runs on "
    "random 32 x 32 images that lie in memory already; MB are 10^6 bytes. Tiny network, batch 32. The official code "
    "keeps the noise and its gradient, one float a pixel each, for all images: calculated, not measured."
)
PROJECT = Path(__file__).parents[2]
STARTS = ("uniform", "class", "zero")
BYTES = 3 * 32 * 32 * 4  # of an image's noise in floats


@benchmark("MB", target=350, better="smaller", judged="ours")
def delta_memory_mb(lab: Lab) -> Pair:
    """Peak extra memory of sample-wise poisoning of 50,000 images, over the official code's noise and gradient."""
    return Pair(_measured(lab.poisoned_images, "uniform"), _official(lab.poisoned_images))


def rows(lab: Lab) -> list[dict[str, Any]]:
    """Return the memory for each start of the noise."""
    count = lab.poisoned_images
    official = {"images": count, "noise starts": "official code: noise and its gradient", "MB": _official(count)}
    return [*({"images": count, "noise starts": start, "MB": _measured(count, start)} for start in STARTS), official]


def _official(count: int) -> float:
    """Return the size of the dense noise and the dense gradient (for 50,000 images 614.4 MB each)."""
    return 2 * count * BYTES / 1e6


@functools.cache
def _measured(count: int, start: str) -> float:
    command = [sys.executable, "-m", "benchmarks.poisoning", str(count), start]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)
