"""Poison random images in a process of its own, and print how much more memory that took at its peak.

``python -m benchmarks.poisoning 50000 uniform`` prints the megabytes (10^6 bytes).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.lab import Lab, machine
from benchmarks.pictures import CLASSES, image_set
from benchmarks.themes.noise import attack_spec
from benchmarks.trainees import SOURCE
from engine import plugins
from engine.journal import Journal
from engine.metering import host_peak_memory
from engine.protocols import AttackContext, ImageSet, Poison

BATCH = 32
STARTS = ("uniform", "zero", "class")
"""Where noise starts: two of the engine's names, and a class-wise poison."""


def extra_megabytes(count: int, start: str) -> float:
    """Run one round of the attack on so many images, and return what its peak added to what was there before.

    A tiny run comes first: the code of torch's kernels is paged in when first used, and is not the attack's.
    """
    _poison(_random_images(16), start, batch=2)
    images = _random_images(count)
    before = _forget_peak()
    _poison(images, start, batch=BATCH)
    return (host_peak_memory() - before) / 1e6


def _random_images(count: int) -> ImageSet:
    return image_set(torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8))


def _poison(images: ImageSet, start: str, *, batch: int) -> Poison:
    spec = attack_spec("tiny", batch, pgd_steps=1)
    init = Poison(torch.zeros(CLASSES, 3, 32, 32), "class") if start == "class" else start
    perturbed = torch.ones(len(images), dtype=torch.bool)
    context = AttackContext(SOURCE, init, perturbed, machine(Lab()), lambda done, of, note: None, Journal())
    poison: Poison = plugins.build("attacks", spec)(images, context)
    return poison


def _forget_peak() -> int:
    """Make the present memory the peak where the system can, and return the peak: bytes."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # proc(5): reset VmHWM
    return host_peak_memory()


if __name__ == "__main__":
    lab = Lab()
    with lab.open():
        print(extra_megabytes(int(sys.argv[1]), sys.argv[2]))
