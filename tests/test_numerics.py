"""Golden results: the numbers that a spec and a seed give may not move unless their version does.

When a change moves them on purpose, raise the stage's number in ``engine/numerics.yaml`` and enter the new
values here. They are compared loosely enough for another CPU, and tightly enough for another algorithm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from engine import plugins
from engine.batching import Resident
from engine.journal import Journal
from engine.machine import Machine
from engine.precision import Precision
from engine.protocols import AttackContext, Defense, ImageSet, Poison, Source, Split
from engine.randomness import stream
from engine.specfiles import read_document
from engine.training.pretrain import Recipe, pretrain
from engine.training.probe import LinearProbe, encode, knn_accuracy, linear_accuracy

VERSIONS = {"generate": 3, "pretrain": 3, "probe": 3}
FP32 = Precision("fp32", torch.device("cpu"))
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 4)
VICTIM: dict[str, Any] = {
    "kind": "simclr",
    "backbone": {"kind": "resnet18", "width": 4, "stages": [1, 1]},
    "views": {"size": 16},
    "batch_size": 16,
}


def images(count: int = 48, seed: int = 0) -> ImageSet:
    """Four classes of smooth blobs in noise."""
    generator = stream(seed, "golden")
    labels = torch.arange(count) % 4
    waves = torch.stack([torch.cos(torch.linspace(0, 3 * (k + 1), 16)) for k in range(4)])
    smooth = waves[labels][:, None, :, None] * waves[labels][:, None, None, :]
    noise = torch.rand(count, 3, 16, 16, generator=generator)
    return ImageSet((127 * (0.5 + 0.3 * smooth) + 90 * noise).to(torch.uint8), labels, ("a", "b", "c", "d"))


def victim() -> Any:
    spec = TypeAdapter(plugins.spec_of("victims")).validate_python(VICTIM, strict=False)
    return plugins.build("victims", spec, source=SOURCE, generator=stream(0, "victim", "init"))


def quiet(done: int, total: int, note: str) -> None:
    """Report nothing."""


def test_the_versions_here_are_those_that_dvc_tracks() -> None:
    file = Path(__file__).parents[1] / "engine/numerics.yaml"
    assert read_document(file).content == VERSIONS


def test_generate() -> None:
    spec = TypeAdapter(plugins.spec_of("attacks")).validate_python(
        {
            "kind": "contrastive_poisoning",
            "epsilon": 0.1,
            "granularity": "class",
            "rounds": 2,
            "model_steps": 2,
            "noise_steps": 3,
            "pgd_steps": 2,
            "surrogate": VICTIM,
        },
        strict=False,
    )
    machine = Machine(torch.device("cpu"), FP32, threads=1, channels_last=False)
    context = AttackContext(SOURCE, "uniform", torch.ones(48, dtype=torch.bool), machine, quiet, Journal())
    poison: Poison = plugins.build("attacks", spec)(images(), context)
    # Signs flip where a gradient is close to zero, so single pixels may differ between CPUs: sums do not.
    delta = poison.delta()
    found = [delta.abs().mean().item(), delta[0].mean().item(), delta[3].mean().item()]
    assert found == pytest.approx(GOLDEN["generate"], abs=2e-3)


def test_pretrain() -> None:
    recipe = Recipe(3, 16, 0.1, 0.9, 1e-4, 1, 1e-3)
    feed = Resident(images())
    curve = pretrain(victim(), feed, recipe=recipe, defense=Defense(), precision=FP32, seed=0, progress=quiet)
    assert [row["loss"] for row in curve] == pytest.approx(GOLDEN["pretrain"], abs=2e-3)
    assert [row["lr"] for row in curve] == pytest.approx([0.05335, 0.02508, 1e-4], abs=1e-5)


def test_probe() -> None:
    encoder = victim().encoder
    split = Split(images(), images(seed=1))
    probe = LinearProbe(40, 16, 0.5, 0.9, 0.0, (25, 35), 0.2, (0.8, 1.0), 4, "last")
    features = [encode(encoder, half.images_u8, None, None) for half in (split.train, split.test)]
    knn = knn_accuracy(features[0], split.train.labels, features[1], split.test.labels, k=5, temperature=0.07)
    found = [linear_accuracy(encoder, split, probe=probe, seed=0), knn]
    assert found == pytest.approx(GOLDEN["probe"], abs=0.05)


GOLDEN: dict[str, list[float]] = {
    "generate": [0.05373, -0.04229, -0.01483],
    "pretrain": [6.13328, 6.13962, 6.13168],
    "probe": [0.27083, 0.4375],
}
