"""Small trainings and searches of every kind, for tests that run them in other ways than from end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import TypeAdapter

from engine import plugins
from engine.batching import Resident
from engine.journal import Journal
from engine.machine import Machine
from engine.protocols import AttackContext, DefenseContext, ImageSet, Source
from engine.randomness import stream
from engine.training.pretrain import Course, Recipe, pretrain

SIZE, CLASSES, IMAGES, BATCH = 12, 4, 40, 8
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CLASSES)
RECIPE = Recipe(4, BATCH, 0.05, 0.9, 1e-4, 0, 1e-3)  # four passes of five batches: twenty steps
BACKBONE = {"kind": "resnet18", "width": 4, "stages": [1, 1]}
VICTIM: dict[str, Any] = {"backbone": BACKBONE, "views": {"size": SIZE}, "batch_size": BATCH}
MOCO = {"queue": 16, "encoder_momentum": 0.9}
GROUPS = {"bn_group_size": 2}  # four batch-norm groups
VICTIMS: dict[str, dict[str, Any]] = {
    "simclr": {},
    "simclr in groups": GROUPS,
    "moco_v2": MOCO,
    "moco_v2 in groups": {**MOCO, **GROUPS, "symmetric": True},
    "byol": {"hidden": 8, "projector_out": 4},
    "simsiam": {},
    "supcon": {},
    "supervised": {},
}
CP = {"kind": "contrastive_poisoning", "rounds": 2, "model_steps": 5, "noise_steps": 5, "pgd_steps": 2}
SEARCH = {"max_rounds": 2, "model_steps": 3, "pgd_steps": 2, "target_error": 0.0}
ATTACKS: dict[str, dict[str, Any]] = {
    "cp_s": {**CP, "granularity": "sample", "surrogate": {"kind": "simclr", **VICTIM, **GROUPS}},
    "cp_c": {**CP, "granularity": "class", "surrogate": {"kind": "simclr", **VICTIM}},
    "cp_s moco": {**CP, "granularity": "sample", "surrogate": {"kind": "moco_v2", **VICTIM, **MOCO}},
    "cp_c moving": {
        **CP,
        "granularity": "class",
        "moving_surrogate": True,
        "surrogate": {"kind": "moco_v2", **VICTIM, **MOCO, **GROUPS},
    },
    "ue_s": {
        "kind": "unlearnable_examples",
        "granularity": "sample",
        "surrogate": {"kind": "supervised", **VICTIM},
        **SEARCH,
    },
    "ue_c": {
        "kind": "unlearnable_examples",
        "granularity": "class",
        "surrogate": {"kind": "supervised", **VICTIM},
        **SEARCH,
    },
    "tue": {
        "kind": "tue",
        "rounds": 2,
        "model_steps": 3,
        "pgd_steps": 2,
        "ssl_weight": 1.0,
        "csd_weight": 0.5,
        "surrogate": {"kind": "moco_v2", **VICTIM, **MOCO},
    },
    "ap": {
        "kind": "adversarial_poisoning",
        "pgd_steps": 3,
        "noise_batch_size": 18,  # the last batch holds four images, the others cannot be shared by four
        "trials": 2,
        "surrogate": {"kind": "supervised", **VICTIM, "epochs": 2, "warmup_epochs": 0},
    },
}
REDUCED = {"simclr bf16": "bf16"}
DEFENSES: dict[str, tuple[str, dict[str, Any]]] = {
    "random noise": ("simclr", {"kind": "random_noise", "sigma": 0.1}),
    "cutout": ("byol", {"kind": "cutout", "position": "before_view"}),
    "mixup": ("moco_v2", {"kind": "mixup"}),
    "mixup of a classifier": ("supervised", {"kind": "mixup"}),
    "advcl": ("simclr", {"kind": "advcl", "clusters": [2, 3], "pgd_steps": 2}),
    "adversarial training": ("supervised", {"kind": "adversarial_training", "pgd_steps": 2}),
    "ueraser": ("supervised", {"kind": "ueraser", "repeats": 2}),
}


def spec_of(group: str, values: dict[str, Any]) -> Any:
    return TypeAdapter(plugins.spec_of(group)).validate_python(values, strict=False)


def images() -> ImageSet:
    pixels = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), generator=stream(0, "images"), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(IMAGES) % CLASSES, ("a", "b", "c", "d"))


def quiet(*report: object) -> None:
    """Report nothing."""


def trained(
    victim: dict[str, Any], defense: dict[str, Any], journal: Journal, *, precision: str = "fp32"
) -> dict[str, Any]:
    machine = Machine.of("cpu", precision)
    learner = plugins.build("victims", spec_of("victims", victim), source=SOURCE, generator=stream(0, "victim", "init"))
    defending = plugins.build("defenses", spec_of("defenses", defense))
    context = DefenseContext(stream(0, "defense", "x"), machine.precision, lambda which: learner.encoder)
    journal.keep("objective", context.generator)
    train_set = defending.on_dataset(images(), context) if defending.changes_dataset else images()
    learner = defending.on_objective(learner, context)
    curve = pretrain(
        learner,
        Resident(train_set),
        recipe=RECIPE,
        defense=defending,
        precision=machine.precision,
        seed=0,
        progress=quiet,
        course=Course(journal=journal),
    )
    return {"losses": [row["loss"] for row in curve], "weights": learner.network.state_dict()}


def poisoned(attack: dict[str, Any], journal: Journal, *, fraction: float = 1.0) -> dict[str, Any]:
    spec = spec_of("attacks", {"epsilon": 0.1, **attack})
    reports: list[tuple[Any, ...]] = []
    perturbed = torch.arange(IMAGES) < fraction * IMAGES
    machine = Machine.of("cpu", "fp32")
    context = AttackContext(SOURCE, "uniform", perturbed, machine, lambda *r: reports.append(r), journal)
    poison = plugins.build("attacks", spec)(images(), context)
    return {"delta": poison.delta(), "views": poison.image_views, "note": reports[-1][2]}


def cases() -> dict[str, Callable[[Journal], dict[str, Any]]]:
    """Return what runs with a journal, under the names of the tables above and one more."""
    none = {"kind": "none"}
    found: dict[str, Callable[[Journal], dict[str, Any]]] = {}
    for name, changes in VICTIMS.items():
        values = {"kind": name.split()[0], **VICTIM, **changes}
        found[name] = lambda journal, values=values: trained(values, none, journal)  # type: ignore[misc]
    for name, precision in REDUCED.items():
        values = {"kind": name.split()[0], **VICTIM}
        found[name] = lambda journal, values=values, precision=precision: trained(  # type: ignore[misc]
            values, none, journal, precision=precision
        )
    for name, (kind, defense) in DEFENSES.items():
        values = {"kind": kind, **VICTIM, **VICTIMS[kind]}
        found[name] = lambda journal, values=values, defense=defense: trained(values, defense, journal)  # type: ignore[misc]
    for name, attack in ATTACKS.items():
        found[name] = lambda journal, attack=attack: poisoned(attack, journal)  # type: ignore[misc]
    found["cp_s of half"] = lambda journal: poisoned(ATTACKS["cp_s"], journal, fraction=0.5)
    return found
