"""What every victim promises, whatever its kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from engine import plugins
from engine.protocols import Source, Victim
from engine.randomness import stream

KINDS = plugins.kinds("victims")
SIZE, BATCH, CLASSES = 16, 8, 4
SMALL: dict[str, Any] = {
    "backbone": {"kind": "resnet18", "width": 4, "stages": [1, 1]},
    "views": {"size": SIZE},
    "batch_size": BATCH,
}
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CLASSES)


def build(kind: str, seed: int = 0) -> Victim:
    spec = TypeAdapter(plugins.spec_of("victims")).validate_python({"kind": kind, **SMALL}, strict=False)
    return plugins.build("victims", spec, source=SOURCE, generator=stream(seed, "victim", "init"))


def batch(victim: Victim, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = stream(seed, "test")
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    return [views(generator, images) for views in victim.views], torch.arange(BATCH) % CLASSES


def test_there_are_victims() -> None:
    assert "simclr" in KINDS


@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    def test_the_loss_is_a_finite_scalar_and_falls(self, kind: str) -> None:
        victim = build(kind)
        views, labels = batch(victim)
        optimizer = torch.optim.SGD(victim.network.parameters(), lr=0.05)
        losses = []
        for _ in range(15):
            loss = victim.loss(views, labels)
            assert loss.shape == ()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            victim.after_step()
            losses.append(loss.item())
        assert all(abs(value) < float("inf") for value in losses)
        assert losses[-1] < losses[0]

    def test_the_loss_in_evaluation_mode_changes_nothing(self, kind: str) -> None:
        victim = build(kind)
        victim.network.eval()
        before = copy.deepcopy(victim.network.state_dict())
        views, labels = batch(victim)
        first = victim.loss(views, labels)
        assert torch.equal(first, victim.loss(views, labels))
        after = victim.network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_the_loss_in_training_mode_changes_batch_statistics_alone(self, kind: str) -> None:
        victim = build(kind)
        victim.network.train()
        before = copy.deepcopy(victim.network.state_dict())
        victim.loss(*batch(victim))
        changed = {name for name, value in victim.network.state_dict().items() if not torch.equal(before[name], value)}
        assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)

    def test_the_gradient_reaches_the_images(self, kind: str) -> None:
        victim = build(kind)
        views, labels = batch(victim)
        leaves = [view.detach().requires_grad_() for view in views]
        victim.loss(leaves, labels).backward()
        assert all(leaf.grad is not None for leaf in leaves)
        assert any(leaf.grad.abs().sum() > 0 for leaf in leaves if leaf.grad is not None)

    def test_the_same_seed_gives_the_same_weights(self, kind: str) -> None:
        one, two, other = (build(kind, seed).network.state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_the_state_survives_a_round_trip(self, kind: str) -> None:
        trained, fresh = build(kind, 0), build(kind, 1)
        fresh.network.load_state_dict(trained.network.state_dict())
        views, labels = batch(trained)
        assert torch.equal(trained.loss(views, labels), fresh.loss(views, labels))

    def test_the_encoder_gives_features(self, kind: str) -> None:
        victim = build(kind)
        features = victim.encoder(torch.rand(2, 3, SIZE, SIZE))
        assert features.shape == (2, victim.encoder.features)
