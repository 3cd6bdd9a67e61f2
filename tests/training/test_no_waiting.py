"""No step waits for a GPU: shown without one, on the meta device, which has no values that could be read.

Whatever would make a GPU's host wait (``item``, ``cpu``, ``tolist``, ``nonzero``, a boolean of a tensor) cannot
be done there and raises.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from engine import optimization, plugins
from engine.attacks.contrastive_poisoning import _Search
from engine.journal import Journal
from engine.machine import Machine
from engine.precision import Precision
from engine.protocols import AttackContext, ImageSet, Source, Victim
from engine.randomness import stream
from engine.training.pretrain import Training
from engine.views import Views, pack

META = torch.device("meta")
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 4)
VICTIM: dict[str, Any] = {
    "kind": "simclr",
    "backbone": {"kind": "resnet18", "width": 4, "stages": [1, 1]},
    "views": {"size": 24, "blur_probability": 0.5, "solarize_probability": 0.2},
    "batch_size": 16,
}


def parsed(group: str, spec: dict[str, Any]) -> Any:
    return TypeAdapter(plugins.spec_of(group)).validate_python(spec, strict=False)


def images() -> ImageSet:
    return ImageSet(torch.zeros(48, 3, 32, 32, dtype=torch.uint8), torch.arange(48) % 4, tuple("abcd")).to(META)


def learner() -> Victim:
    victim: Victim = plugins.build(
        "victims", parsed("victims", VICTIM), source=SOURCE, generator=stream(0, "victim", "init")
    )
    victim.network.to(META)
    return victim


def plain_sgd(parameters: Any, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, **settings, foreach=False)  # the fused one knows no meta device


def test_the_meta_device_notices_waiting() -> None:
    for wait in (torch.Tensor.item, torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.nonzero, bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait(torch.ones((), device=META))


def test_a_training_step_never_waits() -> None:
    victim, defense = learner(), plugins.build("defenses", parsed("defenses", {"kind": "none"}))
    optimizer = plain_sgd(victim.network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    precision = Precision("fp32", META)
    scaler, draws = torch.amp.GradScaler(enabled=False), (stream(0, "draws"), stream(0, "defense"))
    training = Training(victim, defense, optimizer, precision, scaler, *draws)
    train_set, rows = images(), torch.arange(16, device=META)
    loss = training.step(train_set.images_u8[rows], train_set.labels[rows])
    assert loss.device == META
    assert all(weight.grad is not None for weight in victim.network.parameters())


@pytest.mark.parametrize("granularity", ["sample", "class"])
def test_the_steps_of_contrastive_poisoning_never_wait(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimization, "sgd", plain_sgd)
    monkeypatch.setattr(torch.Tensor, "item", lambda _: 0.0)  # the two losses that a round reads at its end
    spec = {
        "kind": "contrastive_poisoning",
        "epsilon": 0.1,
        "granularity": granularity,
        "rounds": 1,
        "model_steps": 2,
        "noise_steps": 2,
        "pgd_steps": 2,
        "surrogate": VICTIM,
    }
    perturbed = torch.ones(48, dtype=torch.bool)
    context = AttackContext(
        SOURCE, "zero", perturbed, Machine(META, Precision("fp32", META), channels_last=False), print, Journal()
    )
    search = _Search(parsed("attacks", spec), images(), context)
    reads = []
    monkeypatch.setattr(torch.Tensor, "item", lambda _: reads.append(1) or 0.0)
    search.train_surrogate()
    search.learn_noise()
    assert len(reads) == 2
    assert search.noise.values.block.device == META


def test_views_of_ragged_images_never_wait() -> None:
    ragged = pack([torch.zeros(3, 20, 30), torch.zeros(3, 40, 25)])
    views = Views(24, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2)
    on_meta = type(ragged)(ragged.pixels.to(META), ragged.sizes)
    assert views(stream(0, "views"), on_meta).device == META
