"""A finished study of 200 cells on CIFAR-10, as files: what DVC would leave behind, without any training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.artifacts import write_poison
from engine.artifacts.files import write_csv, write_json
from engine.protocols import ImageSet, Poison
from engine.reporting.results import floor_keys, floor_stage, generate_stage, pretrain_stage, probe_stage
from engine.specfiles import load, resolved
from engine.stages.perturbations import measure_perturbation
from engine.study import cells, cost_path, floor_path, load_study, perturbation_path, poison_path
from tests.making import about

PROJECT = Path(__file__).parents[2]
NAME, DATASET = "large", "cifar10"
POISONS = {
    "clean": "clean",
    "noise": "random_noise",
    "cp_c": "cp_class",
    "cp_s": "cp_sample",
    "cp_s_moco": "cp_sample_moco",
}
STARTS = {"cp_s": "cp_c", "cp_c": "uniform", "cp_s_moco": "uniform"}
VICTIMS = ("simclr", "simclr_resnet34", "moco_v2", "byol", "supervised")
DEFENSES, SEEDS = ("none", "matrix_completion"), (0, 1, 2, 3)
HARM = {"clean": 0.0, "noise": 1.0, "cp_c": 24.0, "cp_s": 45.0, "cp_s_moco": 30.0}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGES, EPOCHS, BINS = 60, 200, 100
SECONDS = {"generate": 120.0, "pretrain": 300.0, "probe": 12.5, "floor": 10.0}


def linear_of(poison: str, victim: str, defense: str, seed: int) -> float:
    """Return the accuracy that a cell is given: every seed half a point more, what a defense gives back half."""
    harm = HARM[poison] * (0.5 if defense == "matrix_completion" else 1.0)
    return 90.0 - harm - VICTIMS.index(victim) + 0.5 * seed


def write_study(root: Path) -> None:
    """Write the study into a folder, which must be the working folder: specs, poisons, curves, accuracies, costs."""
    shutil.copytree(PROJECT / "specs", root / "specs")
    shutil.copy(PROJECT / "params.yaml", root)
    declared = {
        "name": NAME,
        "dataset": DATASET,
        "poisons": {name: {"attack": kind, "init": STARTS.get(name, "zero")} for name, kind in POISONS.items()},
        "victims": VICTIMS,
        "defenses": DEFENSES,
        "downstream": [DATASET],
        "seeds": SEEDS,
        "protocol": "banked",
    }
    (root / "specs" / "studies" / f"{NAME}.yaml").write_text(json.dumps({"study": declared}))
    study, draws = load_study(NAME), np.random.default_rng(0)
    for name in study.poisons:
        _write_poison(name)
        _write_cost(generate_stage(name))
    for cell in cells(study):
        linear = linear_of(cell.poison, cell.victim, cell.defense, cell.seed)
        head = linear if cell.victim == "supervised" else None
        cell.curve.parent.mkdir(parents=True, exist_ok=True)
        write_csv(cell.curve, [*_curve(linear, draws)])
        _write_cost(pretrain_stage(cell), seconds_per_epoch=SECONDS["pretrain"] / EPOCHS)
        write_json(cell.probe(DATASET), _accuracies(linear, head=head, view_distances=_distances(draws)))
        _write_cost(probe_stage(cell.key, DATASET))
    for key in floor_keys(study):
        write_json(floor_path(DATASET, *key), _accuracies(30.0, head=10.0 if key.victim == "supervised" else None))
        _write_cost(floor_stage(key))


def _accuracies(linear: float, **further: Any) -> dict[str, Any]:
    measured = {"linear": linear, "knn": linear - 5, "train_set": "clean", "select": "last", "numerics": 3}
    return {**measured, "train_images": IMAGES, "test_images": 10_000, **further}


def _write_cost(stage: str, **further: float) -> None:
    cost = {"seconds": SECONDS[stage.partition("@")[0]], "peak_memory_bytes": 3 * 2**29, "device": "cpu", **further}
    write_json(cost_path(DATASET, stage), cost)


def _curve(linear: float, draws: np.random.Generator) -> Iterator[dict[str, float | str]]:
    names = ("alignment", "uniformity", "clean_alignment", "clean_uniformity")
    for epoch in range(1, EPOCHS + 1):
        values = draws.normal(scale=0.05, size=5)
        measured = {name: f"{value:.4f}" if epoch % 10 == 0 else "" for name, value in zip(names, values, strict=False)}
        yield {"epoch": epoch, "loss": round(5 - linear / 50 + 2 / epoch + values[4], 4), "lr": 0.1, **measured}


def _distances(draws: np.random.Generator) -> dict[str, list[float]]:
    released, clean = (draws.multinomial(1000, draws.dirichlet(np.ones(BINS))).tolist() for _ in range(2))
    return {"edges": np.linspace(0, 2, BINS + 1).round(6).tolist(), "released": released, "clean": clean}


def _write_poison(name: str) -> None:
    spec = resolved(load("attacks", POISONS[name]))
    generator = torch.Generator().manual_seed(len(name))
    originals = torch.Generator().manual_seed(0)
    images = torch.randint(20, 230, (IMAGES, 3, 32, 32), generator=originals, dtype=torch.uint8)
    labels, granularity = torch.arange(IMAGES) % len(CLASSES), spec["granularity"]
    rows, bound = len(CLASSES) if granularity == "class" else IMAGES, 0 if name == "clean" else 8
    levels = torch.randint(-bound, bound + 1, (rows, 3, 32, 32), generator=generator).to(torch.int8)
    whole = levels[labels] if granularity == "class" else levels
    views = {"clean": 0, "noise": 0, "cp_c": 2_000_000, "cp_s": 60_000_000, "cp_s_moco": 50_000_000}[name]
    clean, released = (ImageSet(pixels.to(torch.uint8), labels, CLASSES) for pixels in (images, images.int() + whole))
    poison, perturbed = Poison(levels, granularity, views, unit=1 / 255), torch.ones(IMAGES, dtype=torch.bool)
    write_json(perturbation_path(DATASET, name), measure_perturbation(clean, released.images_u8, poison, perturbed))
    write_poison(
        poison_path(DATASET, name),
        clean=clean,
        released=released,
        poison=poison,
        perturbed=perturbed,
        about=about(
            name=name,
            dataset={"name": DATASET, "spec": resolved(load("datasets", DATASET)), "checksum": "c1fa" * 16},
            attack={"name": POISONS[name], "spec": spec, "init": STARTS.get(name, "zero")},
            epsilon=bound / 255,
        ),
    )
