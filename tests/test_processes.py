"""Several processes give the numbers of one: losses, weights and noise, whatever is trained or searched.

Every case runs in this process alone, and again shared by two and by four processes over gloo.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import multiprocessing

from engine import plugins, processes
from engine.batching import Resident
from engine.crossing import everyones, summed
from engine.errors import EngineError
from engine.machine import Machine
from engine.protocols import AttackContext, ImageSet, Source
from engine.randomness import stream
from engine.sharding import SharedRows
from engine.training.pretrain import Recipe, pretrain

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


def trained(victim: dict[str, Any], defense: dict[str, Any]) -> dict[str, Any]:
    from engine.protocols import DefenseContext

    machine = Machine.of("cpu", "fp32")
    learner = plugins.build("victims", spec_of("victims", victim), source=SOURCE, generator=stream(0, "victim", "init"))
    defending = plugins.build("defenses", spec_of("defenses", defense))
    context = DefenseContext(stream(0, "defense", "x"), machine.precision, lambda which: learner.encoder)
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
    )
    return {"losses": [row["loss"] for row in curve], "weights": learner.network.state_dict()}


def poisoned(attack: dict[str, Any], *, fraction: float = 1.0) -> dict[str, Any]:
    spec = spec_of("attacks", {"epsilon": 0.1, **attack})
    reports: list[tuple[Any, ...]] = []
    perturbed = torch.arange(IMAGES) < fraction * IMAGES
    context = AttackContext(SOURCE, "uniform", perturbed, Machine.of("cpu", "fp32"), lambda *r: reports.append(r))
    poison = plugins.build("attacks", spec)(images(), context)
    return {"delta": poison.delta(), "views": poison.image_views, "note": reports[-1][2]}


def cases() -> dict[str, Callable[[], dict[str, Any]]]:
    none = {"kind": "none"}
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, changes in VICTIMS.items():
        values = {"kind": name.split()[0], **VICTIM, **changes}
        found[name] = lambda values=values: trained(values, none)  # type: ignore[misc]
    for name, (kind, defense) in DEFENSES.items():
        values = {"kind": kind, **VICTIM, **VICTIMS[kind]}
        found[name] = lambda values=values, defense=defense: trained(values, defense)  # type: ignore[misc]
    for name, attack in ATTACKS.items():
        found[name] = lambda attack=attack: poisoned(attack)  # type: ignore[misc]
    found["cp_s of half"] = lambda: poisoned(ATTACKS["cp_s"], fraction=0.5)
    return found


def crossing() -> dict[str, Any]:
    """Return what passes between processes, with gradients, and what they refuse."""
    row = torch.full((2, 3), float(processes.rank() + 1), requires_grad=True)
    every = everyones(row)
    weights = torch.arange(len(every)).float()[:, None] * (processes.rank() + 1)
    (grad,) = torch.autograd.grad((every * weights).sum(), row)
    (of_sum,) = torch.autograd.grad((summed(row) ** 2).sum() / 2, row)
    rows = SharedRows(7, (2,), torch.float16, torch.device("cpu"))
    rows.put_(slice(0, 7), torch.arange(14).view(7, 2).half())
    batch = torch.tensor([6, 0, 3, 5])
    read = rows.read(batch)
    rows.write_(batch, -read)
    refused = []
    for attempt in (lambda: processes.check_divides(9, "it"), lambda: processes.own_groups(3)):
        try:
            attempt()
        except EngineError as error:
            refused.append(str(error))
    return {
        "every": every.detach(),
        "grad": grad,
        "of_sum": of_sum,
        "read": read,
        "whole": rows.whole(),
        "held": len(rows.block),
        "refused": refused,
    }


def take_part(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with processes.joined():
        made = {name: case() for name, case in cases().items()}
        torch.save({"made": made, "crossing": crossing()}, folder / f"{world}-{rank}.pt")


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two, and of four, processes made."""
    world, folder = request.param, tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(take_part, (world, port, folder), nprocs=world)
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """What this process makes of the same cases."""
    return {name: case() for name, case in cases().items()}


@pytest.mark.slow
class TestSharing:
    @pytest.mark.parametrize("name", [*VICTIMS, *DEFENSES])
    def test_shared_training_has_the_losses_and_the_weights_of_one_process(
        self, name: str, found: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
    ) -> None:
        expected = alone[name]
        for each in (process["made"][name] for process in found):
            assert each["losses"] == pytest.approx(expected["losses"], rel=1e-5)
            for key, value in expected["weights"].items():
                torch.testing.assert_close(
                    each["weights"][key], value, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
                )
        for key, value in found[0]["made"][name]["weights"].items():
            assert all(torch.equal(value, other["made"][name]["weights"][key]) for other in found[1:])

    @pytest.mark.parametrize("name", [*ATTACKS, "cp_s of half"])
    def test_a_shared_search_makes_the_noise_of_one_process(
        self, name: str, found: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
    ) -> None:
        expected, first = alone[name], found[0]["made"][name]
        assert first["delta"].shape == expected["delta"].shape
        assert (first["delta"] - expected["delta"]).abs().mean() <= 1e-5 * expected["delta"].abs().mean()
        assert first["views"] == expected["views"]
        # Another process holds its block of a sample-wise poison, and hands out none of it.
        assert {len(process["made"][name]["delta"]) for process in found[1:]} <= {0, CLASSES}
