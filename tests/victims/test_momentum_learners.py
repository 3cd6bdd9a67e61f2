"""MoCo v2 and BYOL: their steps against the papers' pseudo-code, and the gradient through the momentum branch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from engine import plugins
from engine.optimization import trained
from engine.protocols import Source, Victim
from engine.randomness import stream

SOURCE = Source(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), num_classes=2)
BATCH = 8
LABELS = torch.zeros(BATCH, dtype=torch.int64)
MOCO: dict[str, Any] = {"queue": 2 * BATCH, "projector_hidden": 12, "projector_out": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    "moco_v2": MOCO,
    "byol": {"hidden": 12, "projector_out": 6},
    "simsiam": {"projector_out": 12, "predictor_hidden": 6},
}


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    values = {
        "kind": kind,
        "backbone": {"kind": "resnet18", "width": 4, "stages": [1, 1]},
        "views": {"size": 16},
        "batch_size": BATCH,
        **SETTINGS[kind],
        **changes,
    }
    spec = TypeAdapter(plugins.spec_of("victims")).validate_python(values, strict=False)
    return plugins.build("victims", spec, source=SOURCE, generator=stream(seed, "weights"))


def two_views(seed: int = 0) -> list[Tensor]:
    generator = stream(seed, "images")
    return [0.5 * torch.rand(BATCH, 3, 16, 16, generator=generator) + shift for shift in (0.0, 0.5)]


def momentum_parameters(victim: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in victim.network["momentum"].parameters()]


def online_parameters(victim: Any) -> list[Tensor]:
    both = [*victim.network["encoder"].parameters(), *victim.network["projector"].parameters()]
    return [parameter.detach().clone() for parameter in both]


def step(victim: Any, views: list[Tensor], lr: float = 0.1) -> Tensor:
    optimizer = torch.optim.SGD(trained(victim.network), lr=lr)
    loss = victim.loss(views, LABELS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    victim.after_step()
    return loss.detach()


class TestMoCo:
    def test_three_steps_are_algorithm_1_of_he_et_al(self) -> None:
        # f_q, f_k, an explicit first-in-first-out list of keys, one image at a time where the paper sums.
        victim = build("moco_v2", temperature=0.3, loss_scale=2.0, encoder_momentum=0.9)
        victim.network.train()
        f_q = nn.Sequential(victim.network["encoder"], victim.network["projector"])
        f_q, f_k = copy.deepcopy(f_q), copy.deepcopy(f_q)
        keys = [row.clone() for row in victim.network.get_buffer("queue")]
        optimizer = torch.optim.SGD(f_q.parameters(), lr=0.1)
        for number in range(3):
            views = two_views(number)
            found = step(victim, views)
            q = normalize(f_q(views[0]), dim=1)
            k = normalize(f_k(views[1]), dim=1).detach()
            losses = []
            for query, key in zip(q, k, strict=True):
                logits = torch.stack([query @ key, *(query @ normalize(other, dim=0) for other in keys)]) / 0.3
                losses.append(cross_entropy(logits[None], torch.tensor([0])))
            expected = 2.0 * torch.stack(losses).mean()
            optimizer.zero_grad()
            expected.backward()
            optimizer.step()
            for behind, ahead in zip(f_k.parameters(), f_q.parameters(), strict=True):
                behind.data = 0.9 * behind.data + 0.1 * ahead.data
            keys = [*k, *keys][: len(keys)]
            torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(momentum_parameters(victim), [p.detach() for p in f_k.parameters()])
        queue = normalize(victim.network.get_buffer("queue"), dim=1)
        torch.testing.assert_close(queue, torch.stack(keys), atol=1e-5, rtol=1e-5)

    def test_the_queue_starts_as_directions_drawn_from_the_seed(self) -> None:
        queues = [build("moco_v2", seed).network.get_buffer("queue") for seed in (0, 0, 1)]
        assert queues[0].shape == (2 * BATCH, 6)
        torch.testing.assert_close(queues[0].norm(dim=1), torch.ones(2 * BATCH))
        assert torch.equal(queues[0], queues[1])
        assert not torch.equal(queues[0], queues[2])

    def test_the_keys_of_one_loss_enter_once_and_the_oldest_leave(self) -> None:
        victim = build("moco_v2")
        before = victim.network.get_buffer("queue").clone()
        victim.loss(two_views(), LABELS)
        keys = victim.keys.clone()
        victim.after_step()
        queue = victim.network.get_buffer("queue").clone()
        assert torch.equal(queue[:BATCH], keys)
        assert torch.equal(queue[BATCH:], before[:BATCH])
        victim.after_step()
        assert torch.equal(victim.network.get_buffer("queue"), queue)

    def test_symmetric_is_the_mean_of_both_directions_and_queues_both_views(self) -> None:
        single, both = build("moco_v2"), build("moco_v2", symmetric=True)
        for victim in (single, both):
            victim.network.eval()
        views = two_views()
        directions = [single.loss(views, LABELS), single.loss(views[::-1], LABELS)]
        torch.testing.assert_close(both.loss(views, LABELS), torch.stack(directions).mean())
        both.after_step()
        expected = torch.cat([both.network["momentum"](view) for view in views[::-1]])
        torch.testing.assert_close(both.network.get_buffer("queue"), expected)

    def test_keys_are_normalised_in_groups_across_those_of_the_queries_and_come_back_in_order(self) -> None:
        views = two_views()
        shuffled = build("moco_v2", bn_group_size=BATCH // 2)
        straight = build("moco_v2", bn_group_size=BATCH // 2, shuffle_bn=False)
        for victim in (shuffled, straight):
            victim.network.train()
            victim.loss(views, LABELS)
        order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # each group of four has two images of either query group
        twin = build("moco_v2", bn_group_size=BATCH // 2)
        twin.network.train()
        expected = twin.network["momentum"](views[1][order])[order.argsort()]
        torch.testing.assert_close(shuffled.keys, expected.detach())
        assert not torch.allclose(shuffled.keys, straight.keys, atol=1e-4)

    @pytest.mark.parametrize(("queue", "symmetric"), [(BATCH + 1, False), (3 * BATCH, True)])
    def test_a_queue_that_holds_no_whole_number_of_steps_is_a_clear_error(self, queue: int, symmetric: bool) -> None:
        with pytest.raises(ValidationError, match=r"queue: must be a multiple of the \d+ keys of a step"):
            build("moco_v2", queue=queue, symmetric=symmetric)

    def test_the_papers_settings_are_the_defaults(self) -> None:
        values = {"kind": "moco_v2", "backbone": {"kind": "resnet18"}, "views": {"size": 32}}
        spec = TypeAdapter(plugins.spec_of("victims")).validate_python(values)
        assert (spec.lr, spec.temperature, spec.encoder_momentum, spec.queue) == (0.3, 0.2, 0.99, 4096)
        assert (spec.epochs, spec.batch_size, spec.symmetric) == (1000, 512, False)
        assert (spec.projector_hidden, spec.projector_out) == (512, 128)
        assert spec.loss_scale == pytest.approx(0.2 / 0.07, abs=1e-4)


class TestBYOL:
    def test_three_steps_are_the_papers_update(self) -> None:
        victim = build("byol", encoder_momentum=0.9)
        victim.network.train()
        online = copy.deepcopy(nn.Sequential(victim.network["encoder"], victim.network["projector"]))
        predictor, target = copy.deepcopy(victim.network["predictor"]), copy.deepcopy(online)
        optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.1)
        for number in range(3):
            views = two_views(number)
            found = step(victim, views)
            z = [target(view).detach() for view in views]
            p = [predictor(online(view)) for view in views]
            images = [
                -(cosine_similarity(p[0][i], z[1][i], dim=0) + cosine_similarity(p[1][i], z[0][i], dim=0)) / 2
                for i in range(BATCH)
            ]
            expected = torch.stack(images).mean()
            optimizer.zero_grad()
            expected.backward()
            optimizer.step()
            for behind, ahead in zip(target.parameters(), online.parameters(), strict=True):
                behind.data = 0.9 * behind.data + 0.1 * ahead.data
            torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            momentum_parameters(victim), [p.detach() for p in target.parameters()], atol=1e-5, rtol=1e-5
        )

    @pytest.mark.parametrize(("updates", "share"), [(1, 0.1), (2, 0.19)])
    def test_the_momentum_network_moves_once_or_twice_a_step(self, updates: int, share: float) -> None:
        victim = build("byol", encoder_momentum=0.9, updates_per_step=updates)
        before = momentum_parameters(victim)
        step(victim, two_views())
        pairs = zip(before, online_parameters(victim), strict=True)
        expected = [(1 - share) * behind + share * ahead for behind, ahead in pairs]
        torch.testing.assert_close(momentum_parameters(victim), expected)

    def test_the_papers_settings_are_the_defaults(self) -> None:
        values = {"kind": "byol", "backbone": {"kind": "resnet18"}, "views": {"size": 32}}
        spec = TypeAdapter(plugins.spec_of("victims")).validate_python(values)
        assert (spec.lr, spec.encoder_momentum, spec.hidden, spec.projector_out) == (1.0, 0.999, 4096, 256)
        assert (spec.epochs, spec.batch_size, spec.updates_per_step) == (1000, 512, 1)


@pytest.mark.parametrize("kind", ["moco_v2", "byol"])
def test_the_momentum_network_starts_equal_and_keeps_its_own_batch_statistics(kind: str) -> None:
    victim = build(kind)
    assert all(map(torch.equal, momentum_parameters(victim), online_parameters(victim)))
    before = {name: value.clone() for name, value in victim.network["momentum"].named_buffers()}
    victim.network.train()
    victim.loss(two_views(), LABELS)
    after = dict(victim.network["momentum"].named_buffers())
    moved = {name for name in before if name.endswith("running_mean") and not torch.equal(before[name], after[name])}
    assert moved
    kept = {name: value.clone() for name, value in after.items()}
    victim.after_step()
    assert all(torch.equal(kept[name], value) for name, value in victim.network["momentum"].named_buffers())


def target_gradients(victim: Victim, gradient: str) -> list[float]:
    """Return the largest gradient of each view where the loss of one direction alone meets it.

    A view is a target alone in one direction: with the online branch cut off from it, what is left is the gradient
    through the target's branch.
    """
    victim.network.eval().requires_grad_(False)
    views = [view.requires_grad_() for view in two_views()]
    kept = victim.network["encoder"].forward
    cut = {id(view) for view in views}

    def without_gradient(images: Tensor) -> Tensor:
        return kept(images.detach() if id(images) in cut else images)

    victim.network["encoder"].forward = without_gradient  # type: ignore[method-assign]
    loss = victim.loss(views, LABELS, gradient=gradient)  # type: ignore[arg-type]
    if not loss.requires_grad:
        return [0.0, 0.0]
    found = torch.autograd.grad(loss, views, allow_unused=True)
    return [0.0 if grad is None else grad.abs().max().item() for grad in found]


@pytest.mark.parametrize(("kind", "targets"), [("moco_v2", [False, True]), ("byol", [True, True])])
def test_noise_gradients_pass_the_momentum_branch_under_dual_alone(kind: str, targets: list[bool]) -> None:
    # In MoCo the second view is the only target; in BYOL each view is one. The official code has no gradient
    # through BYOL's momentum branch even under its flag, because its loss detaches the target.
    assert target_gradients(build(kind), "single") == [0.0, 0.0]
    assert [found > 0 for found in target_gradients(build(kind), "dual")] == targets


def test_simsiam_stops_the_gradient_of_its_targets_under_single_alone() -> None:
    victim = build("simsiam")
    victim.network.eval()
    views = [view.requires_grad_() for view in two_views()]
    found = {
        gradient: torch.autograd.grad(victim.loss(views, LABELS, gradient=gradient), views)
        for gradient in ("single", "dual")
    }
    za, zb = (victim.network["projector"](victim.encoder(view)) for view in views)
    pa, pb = (victim.network["predictor"](z) for z in (za, zb))
    loss = -(cosine_similarity(pa, zb.detach()).mean() + cosine_similarity(pb, za.detach()).mean()) / 2
    torch.testing.assert_close(found["single"], torch.autograd.grad(loss, views))
    assert all(not torch.allclose(a, b) for a, b in zip(found["single"], found["dual"], strict=True))


@pytest.mark.parametrize("gradient", ["single", "dual"])
@pytest.mark.parametrize("kind", ["moco_v2", "byol"])
def test_no_weight_of_the_momentum_network_ever_gets_a_gradient(kind: str, gradient: Any) -> None:
    victim = build(kind)
    victim.loss(two_views(), LABELS, gradient=gradient).backward()
    assert all(parameter.grad is None for parameter in victim.network["momentum"].parameters())
    assert all(parameter.grad is not None for parameter in trained(victim.network))
