"""What every victim promises, whatever its kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from engine import plugins
from engine.optimization import trained
from engine.protocols import Source, Victim
from engine.randomness import stream
from engine.victimspec import VictimSpec

KINDS = plugins.kinds("victims")
SIZE, BATCH, CLASSES = 16, 8, 4
SMALL: dict[str, Any] = {
    "backbone": {"kind": "resnet18", "width": 4, "stages": [1, 1]},
    "views": {"size": SIZE},
    "batch_size": BATCH,
}
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CLASSES)


def spec_of(kind: str, **changes: Any) -> VictimSpec:
    values = {"kind": kind, **SMALL, **changes}
    spec: VictimSpec = TypeAdapter(plugins.spec_of("victims")).validate_python(values, strict=False)
    return spec


def build(kind: str, seed: int = 0, **changes: Any) -> Victim:
    spec = spec_of(kind, **changes)
    victim: Victim = plugins.build("victims", spec, source=SOURCE, generator=stream(seed, "victim", "init"))
    return victim


def batch(victim: Victim, seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = stream(seed, "test")
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    return [views(generator, images) for views in victim.views], torch.arange(BATCH) % CLASSES


def test_there_are_victims() -> None:
    assert {"byol", "moco_v2", "simclr", "supervised"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    def test_the_loss_is_a_finite_scalar_and_every_step_lowers_it(self, kind: str) -> None:
        # Step by step, because a queue that fills with keys of the same few images raises the loss on its own.
        victim = build(kind)
        views, labels = batch(victim)
        optimizer = torch.optim.SGD(trained(victim.network), lr=0.002)
        for _ in range(10):
            before = victim.loss(views, labels)
            assert before.shape == ()
            assert before.isfinite()
            optimizer.zero_grad()
            before.backward()
            optimizer.step()
            assert victim.loss(views, labels) < before
            victim.after_step()

    def test_no_optimizer_step_moves_what_follows_by_momentum(self, kind: str) -> None:
        victim = build(kind)
        parameters = {id(p): name for name, p in victim.network.named_parameters()}
        followers = {name for name, p in victim.network.named_parameters() if not p.requires_grad}
        before = copy.deepcopy(victim.network.state_dict())
        victim.loss(*batch(victim)).backward()
        torch.optim.SGD(trained(victim.network), lr=0.1, weight_decay=0.1).step()
        after = victim.network.state_dict()
        moved = {name for name in parameters.values() if not torch.equal(before[name], after[name])}
        assert moved == set(parameters.values()) - followers
        buffers = set(before) - set(parameters.values())
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert all(torch.equal(before[name], after[name]) for name in buffers if not name.endswith(statistics))
        victim.after_step()
        after = victim.network.state_dict()
        assert all(not torch.equal(before[name], after[name]) for name in followers)

    def test_both_gradients_belong_to_one_value(self, kind: str) -> None:
        victim = build(kind)
        victim.network.eval()
        views, labels = batch(victim)
        single, dual = (victim.loss(views, labels, gradient=gradient) for gradient in ("single", "dual"))
        assert torch.equal(single, dual)

    def test_batch_norm_groups_change_the_loss_in_training_alone(self, kind: str) -> None:
        whole, grouped = build(kind), build(kind, bn_group_size=BATCH // 2)
        views, labels = batch(whole)
        assert (whole.loss(views, labels) - grouped.loss(views, labels)).abs() > 1e-5
        for victim in (whole, grouped):
            victim.network.load_state_dict(build(kind).network.state_dict())
            victim.network.eval()
        torch.testing.assert_close(whole.loss(views, labels), grouped.loss(views, labels))

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

    def test_embeddings_are_finite_and_evaluation_changes_nothing(self, kind: str) -> None:
        victim = build(kind)
        victim.network.eval()
        before = copy.deepcopy(victim.network.state_dict())
        view = batch(victim)[0][0]
        first = victim.embed(view)
        assert first.shape == (BATCH, first.shape[1])
        assert first.isfinite().all()
        # Each image by itself, and none like another: no embedding depends on the batch.
        torch.testing.assert_close(first, torch.cat([victim.embed(view[row : row + 1]) for row in range(BATCH)]))
        assert len(first.unique(dim=0)) == BATCH
        after = victim.network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_a_loss_without_a_classifier_is_one_of_embeddings(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        victim = build(kind)
        victim.network.eval()
        views, labels = batch(victim)
        before, embed = victim.loss(views, labels), type(victim).embed
        monkeypatch.setattr(type(victim), "embed", lambda self, view: embed(self, view).square())
        assert torch.equal(before, victim.loss(views, labels)) == (victim.classifier is not None)

    def test_the_gradient_reaches_the_images(self, kind: str) -> None:
        victim = build(kind)
        views, labels = batch(victim)
        leaves = [view.detach().requires_grad_() for view in views]
        victim.loss(leaves, labels, gradient="dual").backward()
        assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)

    def test_the_same_seed_gives_the_same_weights(self, kind: str) -> None:
        one, two, other = (build(kind, seed).network.state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_the_state_survives_a_round_trip(self, kind: str) -> None:
        trained, fresh = build(kind, 0), build(kind, 1)
        fresh.network.load_state_dict(trained.network.state_dict())
        views, labels = batch(trained)
        assert torch.equal(trained.loss(views, labels), fresh.loss(views, labels))

    def test_its_spec_says_whether_it_classifies(self, kind: str) -> None:
        victim = build(kind)
        assert spec_of(kind).classifies == (victim.classifier is not None)
        if victim.classifier is not None:
            logits = victim.classifier(victim.encoder(torch.rand(2, 3, SIZE, SIZE)))
            assert logits.shape == (2, CLASSES)
            assert len(victim.views) == 1

    def test_the_encoder_gives_features(self, kind: str) -> None:
        victim = build(kind)
        features = victim.encoder(torch.rand(2, 3, SIZE, SIZE))
        assert features.shape == (2, victim.encoder.features)
