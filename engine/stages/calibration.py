"""Calibration: how long a training step and an encoding take on this machine, from a few of them.

What was measured is kept under the device's name and a checksum of the settings, so that it is measured once.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine import plugins
from engine.artifacts.files import read_json, write_json
from engine.errors import EngineError
from engine.machine import Machine
from engine.metering import device_name, peak_memory
from engine.protocols import Defense, DefenseContext, Source, Victim
from engine.randomness import stream
from engine.spec import DatasetSpec, DefenseSpec
from engine.specfiles import resolved
from engine.stages.pretrain import fresh_victim
from engine.victimspec import VictimSpec

if TYPE_CHECKING:
    from torch import nn

FILE = Path(".work/calibration.json")
VERSION = 1  # of what is measured, and how
STEPS, ENOUGH, PATIENCE = 3, 1.0, 20.0
"""Timed are so many steps or more, for so many seconds or more, but none is begun after the last of them."""
CLASSES = 10  # where a data set's spec does not say how many: a head's size hardly counts
UNTIMED = {"epochs", "warmup_epochs", "lr", "momentum", "weight_decay", "final_lr_rel"}
"""What a learner's step does not depend on."""


@dataclass(frozen=True)
class Learning:
    """Steps of a learner under a defense, or encodings of its encoder where there is no defense's name."""

    victim: VictimSpec
    dataset: DatasetSpec
    defense: DefenseSpec | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return everything that a step's time depends on, but for the machine."""
        return {
            "victim": self.victim.model_dump(mode="json", exclude=UNTIMED),
            "defense": None if self.defense is None else resolved(self.defense),
            "image_size": self.dataset.image_size,
            "source": _source(self.dataset).num_classes,
        }


@dataclass(frozen=True)
class Pace:
    """What was measured.

    Units: seconds of one image-view, or of one encoding; memory in bytes, of the device or else of this process.
    """

    seconds: float
    memory: int


class Calibration:
    """Paces on one machine, read back where they are known."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.device = machine, device_name(machine)
        self._known: dict[str, Any] = read_json(FILE) if FILE.is_file() else {}

    def pace(self, learning: Learning) -> Pace:
        """Return a pace, measured where it is not known yet."""
        machine = self.machine
        conditions = {
            "threads": machine.threads,
            "channels_last": machine.channels_last,
            "compile": machine.compile,
            "precision": machine.precision.name,
        }
        about = json.dumps([VERSION, learning.settings, conditions], sort_keys=True)
        key = f"{self.device} {hashlib.sha256(about.encode()).hexdigest()}"
        if key not in self._known:
            pace = _measure(learning, machine)
            self._known[key] = {"seconds": pace.seconds, "memory": pace.memory}
            write_json(FILE, self._known)
        return Pace(**self._known[key])


def _measure(learning: Learning, machine: Machine) -> Pace:
    import torch

    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    with machine.run():
        step, images = (_encoding if learning.defense is None else _training)(learning, machine)
        seconds = _median(step, machine) / images
    return Pace(float(f"{seconds:.4g}"), peak_memory(machine))


def _training(learning: Learning, machine: Machine) -> tuple[Callable[[], object], int]:
    """Return a step of a training on random images, and how many image-views it takes."""
    import torch

    from engine.training.pretrain import Recipe, start_training

    spec, size = learning.victim, learning.dataset.image_size
    assert learning.defense is not None
    source, defense = _source(learning.dataset), plugins.build("defenses", learning.defense)
    victim = _defended(fresh_victim(spec, source, 0), defense, machine)
    machine.place(victim.network)
    recipe = Recipe(**spec.recipe())
    training = start_training(victim, recipe=recipe, defense=defense, precision=machine.precision, seed=0)
    draws = stream(0, "calibration", "images")
    images_u8 = torch.randint(0, 256, (spec.batch_size, 3, size, size), generator=draws, dtype=torch.uint8)
    labels = torch.arange(spec.batch_size) % source.num_classes
    batch = images_u8.to(machine.device), labels.to(machine.device)
    return lambda: training.step(*batch), spec.batch_size * spec.views_per_image


def _defended(victim: Victim, defense: Defense, machine: Machine) -> Victim:
    """Put a defense's objective around a learner; one that reads a changed data set is left out."""
    if defense.changes_dataset:
        return victim
    return defense.on_objective(
        victim, DefenseContext(stream(0, "calibration", "objective"), machine.precision, _nothing_is_trained)
    )


def _nothing_is_trained(which: Literal["released", "clean"]) -> nn.Module:
    raise EngineError("a defense asked for a trained encoder where a few steps are timed; use --no-calibrate")


def _encoding(learning: Learning, machine: Machine) -> tuple[Callable[[], object], int]:
    """Return the encoding of random images, and how many they are."""
    import torch

    from engine.training.probe import CHUNK, encode

    encoder = machine.place(fresh_victim(learning.victim, _source(learning.dataset), 0).encoder)
    size, draws = learning.dataset.image_size, stream(0, "calibration", "images")
    images_u8 = torch.randint(0, 256, (CHUNK, 3, size, size), generator=draws, dtype=torch.uint8).to(machine.device)
    return lambda: encode(encoder, images_u8, None, None), CHUNK


def _median(step: Callable[[], object], machine: Machine) -> float:
    """Return the median time of a few steps, waiting for the device after each."""
    import torch

    def timed() -> float:
        start = time.perf_counter()
        step()
        if machine.device.type == "cuda":
            torch.cuda.synchronize(machine.device)
        return time.perf_counter() - start

    for _ in range(2):  # they compile, allocate and choose algorithms
        timed()
    times = [timed()]
    while sum(times) < PATIENCE and (len(times) < STEPS or sum(times) < ENOUGH):
        times.append(timed())
    return statistics.median(times)


def _source(dataset: DatasetSpec) -> Source:
    return Source(dataset.mean, dataset.std, getattr(dataset, "num_classes", CLASSES))
