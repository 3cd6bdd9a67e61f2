"""Contrastive Poisoning: what its noise steps compute, what they leave alone, what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from engine.attacks import contrastive_poisoning
from engine.attacks.contrastive_poisoning import _Search
from engine.backbones import resnet18
from engine.journal import Journal
from engine.machine import Machine
from engine.perturbation import add_poison
from engine.protocols import AttackContext, Gradient, ImageSet, Poison, Source, Victim
from engine.randomness import stream
from engine.victims import simclr
from engine.victimspec import ViewsSpec
from engine.views import Views

EPSILON = 32 / 255
BATCH = 8
ALL = torch.ones(16, dtype=torch.bool)
GRANULARITIES = ["sample", "class"]
HALF = EPSILON / 1000  # noise is kept in half precision in units of epsilon, which resolves 1/2048


def attack_spec(granularity: str, *, views: ViewsSpec | None = None, **changes: Any) -> contrastive_poisoning.Spec:
    surrogate = simclr.Spec(
        kind="simclr",
        backbone=resnet18.Spec(kind="resnet18", width=4, stages=(1, 1), stem="cifar_stride2"),
        views=views or ViewsSpec(size=16),
        batch_size=BATCH,
        lr=0.05,
        projector_hidden=8,
        projector_out=8,
    )
    settings = {"rounds": 1, "model_steps": 1, "noise_steps": 2, "pgd_steps": 2, "epsilon": EPSILON}
    return contrastive_poisoning.Spec(
        kind="contrastive_poisoning", granularity=granularity, surrogate=surrogate, **(settings | changes)
    )


def image_set(count: int = 16, classes: int = 2) -> ImageSet:
    # Away from black and white, so that the image clip hides no noise.
    images = torch.randint(60, 190, (count, 3, 16, 16), generator=stream(0, "images"), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % classes, tuple("abcdefgh"[:classes]))


def context(init: str | Poison = "uniform", perturbed: Tensor = ALL, reports: list | None = None) -> AttackContext:
    return AttackContext(
        source=Source(mean=(0.5,) * 3, std=(0.25,) * 3, num_classes=2),
        init=init,
        perturbed=perturbed,
        machine=Machine.of("cpu", "fp32"),
        progress=lambda *report: None if reports is None else reports.append(report),
        journal=Journal(),
    )


def attack(spec: contrastive_poisoning.Spec, **settings: Any) -> Poison:
    return contrastive_poisoning.build(spec)(image_set(), context(**settings))


class Linear(Victim):
    """A learner whose loss is a weighted sum of its single, unaugmented view; it records what it is given.

    Shapes: weights [B], one for each place in the batch.
    """

    views = (Views(16, None, (1.0, 1.0), 0.0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0),)

    def __init__(self, weights: Sequence[float]) -> None:
        self.network = nn.Linear(1, 1)
        self.weights = torch.tensor(weights)
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.was_training: list[bool] = []
        self.gradients: list[Gradient] = []
        self.steps = 0

    @property
    def encoder(self) -> nn.Module:
        return self.network

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        self.seen.append((views[0].detach(), labels))
        self.was_training.append(self.network.training)
        self.gradients.append(gradient)
        return (self.weights * views[0].sum(dim=(1, 2, 3))).sum() + 0 * self.network.weight.sum()

    def after_step(self) -> None:
        self.steps += 1


def search_with(learner: Victim, spec: contrastive_poisoning.Spec, images: ImageSet, **settings: Any) -> _Search:
    search = _Search(spec, images, context(**settings))
    search.pair.take(learner, partial(torch.optim.SGD, lr=0.1))
    return search


def delta_of(search: _Search) -> Tensor:
    """Return the search's noise in pixel units."""
    return search.noise.values.block.float() * EPSILON


def loss_of(search: _Search, delta: Tensor, draws: int = 4) -> float:
    """Return the frozen surrogate's mean loss of fixed views of all images with some noise."""
    images, generator = search.noise.images, stream(0, "judge")
    search.pair.victim.network.eval()
    total = 0.0
    with torch.no_grad():
        for _ in range(draws):
            poisoned = add_poison(images.images_u8.float() / 255, delta)
            views = [views(generator, poisoned) for views in search.pair.victim.views]
            total += search.pair.victim.loss(views, images.labels).item() / draws
    return total


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_poison_is_a_function_of_the_seed_to_the_bit(granularity: str) -> None:
    poisons = [attack(attack_spec(granularity, rounds=2, seed=seed)).delta() for seed in (0, 0, 1)]
    assert torch.equal(poisons[0], poisons[1])
    assert not torch.equal(poisons[0], poisons[2])


def test_the_global_random_state_plays_no_part() -> None:
    deltas = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            deltas.append(attack(attack_spec("sample", noise_steps=1, pgd_steps=1)).delta())
    assert torch.equal(*deltas)


@pytest.mark.parametrize("init", ["zero", "uniform"])
@pytest.mark.parametrize(("granularity", "rows"), [("sample", 16), ("class", 2)])
def test_the_noise_stays_in_the_ball_and_reaches_its_bound(granularity: str, rows: int, init: str) -> None:
    poison = attack(attack_spec(granularity, step_size_rel=0.7), init=init)
    assert poison.granularity == granularity
    assert poison.delta().shape == (rows, 3, 16, 16)
    assert poison.delta().abs().max() == torch.tensor(EPSILON)
    assert not poison.delta().requires_grad


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_noise_steps_lower_the_frozen_surrogates_loss(granularity: str) -> None:
    # Smooth images and views that keep their colours: a tiny surrogate tells them apart, and has a loss to lower.
    generator = stream(0, "smooth")
    smooth = nn.functional.interpolate(torch.rand(16, 3, 4, 4, generator=generator), 16, mode="bilinear")
    images = ImageSet((60 + 130 * smooth).to(torch.uint8), torch.arange(16) % 2, ("a", "b"))
    views = ViewsSpec(size=16, jitter_probability=0.0, grayscale=0.0)
    spec = attack_spec(granularity, views=views, model_steps=5, noise_steps=10, pgd_steps=1)
    search = _Search(spec, images, context("zero"))
    search.train_surrogate()
    clean = loss_of(search, torch.zeros(16, 3, 16, 16))
    search.learn_noise()
    rows = torch.arange(16)
    gain = clean - loss_of(search, search.noise.spread(delta_of(search), rows))
    random = torch.randn(delta_of(search).shape, generator=generator).sign() * delta_of(search).abs().mean()
    assert gain > 0.1
    assert abs(clean - loss_of(search, search.noise.spread(random, rows))) < gain / 3


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_learning_noise_leaves_the_surrogate_as_it_was(granularity: str) -> None:
    search = _Search(attack_spec(granularity), image_set(), context())
    search.train_surrogate()
    before = {name: value.clone() for name, value in search.pair.victim.network.state_dict().items()}
    delta = delta_of(search).clone()
    search.pair.optimizer.zero_grad(set_to_none=True)
    search.learn_noise()
    after = search.pair.victim.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in search.pair.victim.network.parameters())
    assert not torch.equal(delta_of(search), delta)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_training_the_surrogate_leaves_the_noise_as_it_was(granularity: str) -> None:
    search = _Search(attack_spec(granularity), image_set(), context())
    delta = delta_of(search).clone()
    before = [parameter.detach().clone() for parameter in search.pair.victim.network.parameters()]
    search.train_surrogate()
    assert torch.equal(delta_of(search), delta)
    changed = [not torch.equal(a, b) for a, b in zip(before, search.pair.victim.network.parameters(), strict=True)]
    assert all(changed)


@pytest.mark.parametrize("bound", [EPSILON, -EPSILON])
def test_noise_that_starts_on_its_bound_moves_inside(bound: float) -> None:
    # Noise clamped inside the graph has no gradient on its bound since torch 2.14, and would never move again.
    start = Poison(torch.full((2, 3, 16, 16), bound), "class")
    spec = attack_spec("sample", pgd_steps=1)
    moved = (attack(spec, init=start).delta() - bound).abs()
    step = 0.1 * EPSILON
    assert 0.2 < (moved > 0.99 * step).float().mean() < 0.8
    assert ((moved == 0) | ((moved - step).abs() < HALF)).all()


def grey_images(labels: list[int], classes: int) -> ImageSet:
    images = torch.full((len(labels), 3, 16, 16), 128, dtype=torch.uint8)
    return ImageSet(images, torch.tensor(labels), tuple("abcdefgh"[:classes]))


def test_class_wise_noise_descends_the_sum_of_its_members_gradients() -> None:
    # Class 0 has the weights 1, 1, -3: their sum is negative though most of its members' signs are positive.
    # Class 1 would have 1 - 5, but the image of weight -5 is not perturbed. Class 2 sums to zero, class 3
    # is not in the batch.
    images = grey_images([0, 0, 0, 1, 1, 2, 2, 3], classes=4)
    perturbed = torch.tensor([True, True, True, True, False, True, True, True])
    learner = Linear([1.0, 1.0, -3.0, 1.0, -5.0, 2.0, -2.0])
    spec = attack_spec("class", noise_steps=1, pgd_steps=1)
    search = search_with(learner, spec, images, init="zero", perturbed=perturbed)
    search.noise_batches = iter([torch.arange(7)])
    search.learn_noise()
    step = 0.1 * EPSILON
    expected = torch.tensor([step, -step, 0.0, 0.0])[:, None, None, None].expand(4, 3, 16, 16)
    torch.testing.assert_close(delta_of(search), expected, atol=HALF, rtol=0)


def test_sample_wise_noise_descends_each_images_own_gradient_and_leaves_images_outside_the_batch() -> None:
    images = grey_images([0] * 10, classes=1)
    learner = Linear([1.0, -2.0, 0.0, 3.0])
    spec = attack_spec("sample", noise_steps=1, pgd_steps=3)
    search = search_with(learner, spec, images, init="uniform", perturbed=torch.ones(10, dtype=torch.bool))
    before = delta_of(search).clone()
    rows = torch.tensor([7, 2, 5, 0])
    search.noise_batches = iter([rows])
    search.learn_noise()
    direction = torch.tensor([-1.0, 1.0, 0.0, -1.0])[:, None, None, None]
    expected = (before[rows] + 3 * 0.1 * EPSILON * direction).clamp(-EPSILON, EPSILON)
    torch.testing.assert_close(delta_of(search)[rows], expected, atol=HALF, rtol=0)
    outside = torch.tensor([1, 3, 4, 6, 8, 9])
    assert torch.equal(delta_of(search)[outside], before[outside])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_surrogate_sees_clean_images_where_nothing_may_change(granularity: str) -> None:
    images, perturbed = image_set(), torch.arange(16) % 4 < 2
    learner = Linear([1.0] * BATCH)
    spec = attack_spec(granularity, model_steps=2)
    search = search_with(learner, spec, images, init="uniform", perturbed=perturbed)
    batches = [torch.arange(0, 8), torch.arange(8, 16)]
    search.model_batches, search.noise_batches = iter(batches), iter(batches)
    search.train_surrogate()
    search.learn_noise()
    visits = batches + [rows for rows in batches for _ in range(2)]  # two noise steps of two PGD steps
    assert len(learner.seen) == len(visits) == 6
    for (view, labels), rows in zip(learner.seen, visits, strict=True):
        assert torch.equal(labels, images.labels[rows])
        difference = (view - images.images_u8[rows] / 255).abs().flatten(1).amax(dim=1)
        assert (difference > 0).tolist() == perturbed[rows].tolist()


def test_the_noise_of_images_that_may_not_change_never_moves() -> None:
    perturbed = torch.arange(16) < 8
    spec = attack_spec("sample", pgd_steps=1)
    start = delta_of(_Search(spec, image_set(), context()))
    delta = attack(spec, perturbed=perturbed).delta()
    assert torch.equal(delta[~perturbed], start[~perturbed])
    assert not attack(spec, init="zero", perturbed=perturbed).delta()[~perturbed].any()
    assert ((delta - start)[perturbed].abs().flatten(1).amax(dim=1) > 0).all()


def test_class_wise_noise_of_a_class_that_may_not_change_never_moves() -> None:
    perturbed = torch.arange(16) % 2 == 0  # class 0 alone
    delta = attack(attack_spec("class"), init="zero", perturbed=perturbed).delta()
    assert delta[0].any()
    assert not delta[1].any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_cost_is_every_view_of_every_step(granularity: str) -> None:
    spec = attack_spec(granularity, rounds=2, model_steps=3, noise_steps=1, pgd_steps=2)
    assert attack(spec).image_views == BATCH * 2 * (2 * (3 + 1 * 2))


def test_model_steps_train_and_move_the_learner_and_noise_steps_do_neither() -> None:
    learner = Linear([1.0] * BATCH)
    spec = attack_spec("sample", model_steps=3, noise_steps=2, pgd_steps=2)
    search = search_with(learner, spec, image_set())
    search.train_surrogate()
    assert (learner.was_training, learner.steps) == ([True] * 3, 3)
    search.learn_noise()
    assert (learner.was_training, learner.steps) == ([True] * 3 + [False] * 4, 3)
    search.train_surrogate()
    assert learner.was_training[7:] == [True] * 3


@pytest.mark.parametrize("gradient", ["single", "dual"])
def test_noise_steps_take_the_gradient_of_the_spec_and_model_steps_stop_it_at_the_target(gradient: Gradient) -> None:
    learner = Linear([1.0] * BATCH)
    spec = attack_spec("sample", model_steps=2, noise_steps=1, pgd_steps=2, gradient=gradient)
    search = search_with(learner, spec, image_set())
    search.train_surrogate()
    search.learn_noise()
    assert learner.gradients == ["single", "single", gradient, gradient]


def test_the_gradient_is_dual_and_the_surrogate_stands_still_by_default() -> None:
    spec = attack_spec("sample")
    assert (spec.gradient, spec.moving_surrogate) == ("dual", False)


def test_a_moving_surrogate_moves_at_every_pgd_step_though_its_weights_are_frozen() -> None:
    learner = Linear([1.0] * BATCH)
    spec = attack_spec("sample", model_steps=3, noise_steps=2, pgd_steps=2, moving_surrogate=True)
    search = search_with(learner, spec, image_set())
    search.train_surrogate()
    before = learner.network.weight.clone()
    search.learn_noise()
    assert learner.steps == 3 + 2 * 2
    assert torch.equal(learner.network.weight, before)


def test_every_pgd_step_meets_the_same_images_with_the_noise_of_the_step_before() -> None:
    learner = Linear([1.0] * BATCH)
    search = search_with(learner, attack_spec("sample", noise_steps=1, pgd_steps=3), image_set(), init="zero")
    search.noise_batches = iter([torch.arange(8)])
    search.learn_noise()
    means = [view.mean().item() for view, _ in learner.seen]
    assert means[0] - means[1] == pytest.approx(0.1 * EPSILON, rel=1e-3)
    assert means[1] - means[2] == pytest.approx(0.1 * EPSILON, rel=1e-3)


def test_pgd_steps_redraw_the_views() -> None:
    learner = Linear([0.0] * BATCH)  # no gradient: only the views can change what is seen
    learner.views = (Views(16, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0),)
    search = search_with(learner, attack_spec("sample", noise_steps=1, pgd_steps=2), image_set())
    search.learn_noise()
    (one, _), (other, _) = learner.seen
    assert ((one - other).abs().flatten(1).amax(dim=1) > 0.01).all()


def test_few_noise_steps_a_round_still_visit_every_image() -> None:
    spec = attack_spec("sample", rounds=2, noise_steps=1)  # two rounds of one batch are sixteen images
    delta = attack(spec, init="zero").delta()
    assert (delta.abs().flatten(1).amax(dim=1) > 0).all()


def test_the_surrogates_rate_follows_the_cosine_over_the_rounds_without_warm_up() -> None:
    search = _Search(attack_spec("sample", rounds=4), image_set(), context())
    rates = []
    for round_ in range(4):
        search.set_lr(round_)
        rates.append(search.pair.optimizer.param_groups[0]["lr"])
    # 0.05 and a final rate of 0.001 of it: 5e-5 + 0.04995 (1 + cos(pi round / 4)) / 2, rounds from 1.
    assert rates == pytest.approx([0.042_684_992, 0.025_025, 0.007_365_008, 0.000_05], abs=1e-9)


def test_the_warm_up_climbs_in_equal_shares_of_the_cosine_and_starts_again_with_every_surrogate() -> None:
    spec = attack_spec("sample", rounds=4, restarts=1, warmup_rounds=2)
    warm, cold = (_Search(each, image_set(), context()) for each in (spec, attack_spec("sample", rounds=4)))
    shares = []
    for round_ in range(4):
        for search in (warm, cold):
            search.set_lr(round_)
        shares.append(warm.pair.optimizer.param_groups[0]["lr"] / cold.pair.optimizer.param_groups[0]["lr"])
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 1])
    warm.take_fresh_surrogate(1)
    warm.set_lr(0)
    cold.set_lr(0)
    assert warm.pair.optimizer.param_groups[0]["lr"] == pytest.approx(cold.pair.optimizer.param_groups[0]["lr"] / 3)


def test_sample_wise_noise_starts_from_the_class_wise_poison() -> None:
    images = image_set()
    start = attack(attack_spec("class"))
    search = _Search(attack_spec("sample"), images, context(init=start))
    assert torch.equal(delta_of(search), start.delta(images.labels))
    # One round of one step: every pixel is within one step of its class's noise.
    spec = attack_spec("sample", pgd_steps=1)
    moved = (attack(spec, init=start).delta() - start.delta(images.labels)).abs()
    assert 0 < moved.max() <= 0.1 * EPSILON + HALF


def test_a_start_from_another_poison_uses_the_same_fresh_surrogate() -> None:
    start = Poison(torch.zeros(2, 3, 16, 16), "class")
    one, other = (_Search(attack_spec("sample"), image_set(), context(init)) for init in ("uniform", start))
    weights = other.pair.victim.network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in one.pair.victim.network.state_dict().items())


def test_every_round_is_reported_with_its_losses() -> None:
    reports: list = []
    attack(attack_spec("sample", rounds=3, noise_steps=1, pgd_steps=1), reports=reports)
    assert [(done, total) for done, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]
    assert all("after model steps" in note and "after noise steps" in note for _, _, note in reports)


def test_a_restart_goes_on_with_the_noise_and_a_surrogate_of_new_weights() -> None:
    reports: list = []
    spec = attack_spec("sample", rounds=2, restarts=1)
    once = attack(attack_spec("sample", rounds=2))
    twice = attack(spec, reports=reports)
    assert [(done, total) for done, total, _ in reports] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert twice.image_views == 2 * once.image_views
    # Two rounds of two noise steps and two PGD steps move a pixel by eight steps of a tenth at the most.
    moved = (twice.delta() - once.delta()).abs().max()
    assert 0 < moved <= 8 * 0.1 * EPSILON + HALF
    search = _Search(spec, image_set(), context())
    first = search.pair.victim.network.state_dict()
    search.set_lr(1)
    search.take_fresh_surrogate(1)
    second = search.pair.victim.network.state_dict()
    changed = [not torch.equal(first[name], second[name]) for name in first if name.endswith("0.weight")]
    assert changed
    assert all(changed)


def test_noise_steps_may_learn_through_other_views_than_model_steps() -> None:
    none = ViewsSpec(preset="none", size=16)
    search = _Search(attack_spec("sample", noise_views=none), image_set(), context())
    seen: dict[str, list[Tensor]] = {"model": [], "noise": []}
    learner = search.pair.victim
    forward = learner.encoder.forward
    for step in ("model", "noise"):

        def remember(batch: Tensor, step: str = step) -> Tensor:
            seen[step].append(batch.detach().clone())
            return forward(batch)

        learner.encoder.forward = remember
        search.train_surrogate() if step == "model" else search.learn_noise()
    (model,) = seen["model"]
    assert not torch.equal(model[:BATCH], model[BATCH:])  # two augmented views
    assert len(seen["noise"]) == 4
    for both in seen["noise"]:
        assert torch.equal(both[:BATCH], both[BATCH:])  # the image, twice
    with pytest.raises(ValidationError, match=r"noise_views\.size: given 8, but the surrogate sees 16 pixels"):
        attack_spec("sample", noise_views=ViewsSpec(preset="none", size=8))
