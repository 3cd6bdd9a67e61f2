"""A study in memory: what the stages of a finished study leave behind, without files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from engine.reporting.readings import Accuracy, Curve
from engine.reporting.results import FloorKey, PoisonFacts, Results
from engine.study import StudySpec, cells

Judged = dict[tuple[str, int], tuple[float, float]]
"""Linear and kNN accuracy of (poison, seed)."""


def judged(linear: float, knn: float, **changed: Any) -> Accuracy:
    values = {"train_set": "clean", "select": "last", "train_images": 100, "test_images": 50, "numerics": 1}
    return Accuracy(linear=linear, knn=knn, **{**values, **changed})


def facts_of(name: str, kind: str, *, epsilon: float = 8 / 255, init: str = "zero") -> PoisonFacts:
    """A poison of two classes of 4 x 4 images, whose differences are as large as they may be."""
    reference = kind == "clean"
    levels = 0 if reference else round(255 * epsilon)
    clean = np.full((2, 3, 4, 4), 100, np.uint8)
    manifest = {
        "dataset": {"spec": {"kind": "folder"}, "checksum": "ab12"},
        "epsilon": 0.0 if reference else epsilon,
        "max_difference_levels": levels,
        "precision": "fp32",
        "image_views": 0 if reference else 12_000,
        "images": 40,
        "perturbed": 40,
        "class_names": ["cat", "dog"],
    }
    preview = {"clean": clean, "poisoned": clean + np.uint8(levels)}
    spec = {"kind": kind, "granularity": "sample", "epsilon": epsilon, "poison_fraction": 1.0}
    return PoisonFacts(name, kind, init, spec, manifest, preview)


@pytest.fixture(scope="session")
def build_results() -> Callable[..., Results]:
    """Return a function that builds the results of one victim; a number that is not given is missing."""

    def build(
        accuracies: Judged, floors: dict[int, tuple[float, float]], *, kinds: Sequence[str] = ("clean", "noise")
    ) -> Results:
        seeds = sorted({seed for _, seed in accuracies} | set(floors))
        study = StudySpec(
            protocol="banked",
            name="small",
            description="A <b>small</b> study & its poisons",
            dataset="pets",
            poisons={kind: {"attack": kind, "init": "zero"} for kind in kinds},
            victims=("simclr",),
            defenses=("none",),
            downstream=("pets",),
            seeds=tuple(seeds),
        )
        results = Results(study, {kind: facts_of(kind, kind) for kind in kinds})
        for cell in cells(study):
            if found := accuracies.get((cell.poison, cell.seed)):
                results.accuracies[cell, "pets"] = judged(*found)
                results.curves[cell] = Curve(np.arange(1, 4), np.array([3.0, 2.0, 1.0 + cell.seed]))
        for seed, values in floors.items():
            results.floors[FloorKey("simclr", seed, "pets")] = judged(*values)
        return results

    return build


@pytest.fixture
def results(build_results: Callable[..., Results]) -> Results:
    """Three seeds, of which one has no poisoned accuracy."""
    accuracies = {
        ("clean", 0): (80.0, 70.0),
        ("clean", 1): (82.0, 71.0),
        ("clean", 2): (84.0, 75.0),
        ("noise", 0): (50.0, 45.0),
        ("noise", 1): (55.0, 45.0),
    }
    return build_results(accuracies, {0: (30.0, 20.0), 1: (32.0, 21.0), 2: (31.0, 22.0)})
