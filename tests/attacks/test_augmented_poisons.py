"""AUE and AAP: the strength of their views, where their steps go, what they cost, what their numbers are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.attacks import aap, aue
from engine.protocols import ImageSet, Poison
from engine.randomness import stream
from engine.specfiles import load
from engine.victimspec import ViewsSpec, presets
from engine.views import Views
from engine.views.strength import chain_of_strength

EPSILON = 32 / 255
HALF = EPSILON / 1000  # noise is kept in half precision in units of epsilon, which resolves 1/2048


@pytest.fixture
def attack(surrogate: Any, context: Any, image_set: ImageSet) -> Callable[..., Poison]:
    """Run one of the two modules' attack."""

    def run(module: Any, **changes: Any) -> Poison:
        given = {key: changes.pop(key) for key in ("init", "perturbed", "reports") if key in changes}
        values = {"epsilon": EPSILON, "pgd_steps": 3, "step_size_rel": 0.1, "surrogate": surrogate()} | changes
        spec = module.Spec(kind=module.__name__.rsplit(".", 1)[1], **values)
        return module.build(spec)(image_set, context(**given))

    return run


# s: smallest crop, jitter of brightness and hue, probabilities of jitter and grey, by the formulas of the paper's code.
@pytest.mark.parametrize(
    ("strength", "smallest", "brightness", "hue", "jittered", "grey"),
    [
        (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
        (0.4, 0.64, 0.16, 0.04, 0.32, 0.08),
        (0.6, 0.46, 0.24, 0.06, 0.48, 0.12),
        (0.8, 0.28, 0.32, 0.08, 0.64, 0.16),
        (1.0, 0.1, 0.4, 0.1, 0.8, 0.2),
        (1.5, 0.05, 0.6, 0.15, 0.99, 0.3),
    ],
)
def test_a_strength_is_a_chain(
    strength: float, smallest: float, brightness: float, hue: float, jittered: float, grey: float
) -> None:
    chain = chain_of_strength(strength)
    assert chain["crop_scale"] == pytest.approx((smallest, 1.0))
    assert chain["jitter"] == pytest.approx((brightness, brightness, brightness, hue))
    assert (chain["jitter_probability"], chain["grayscale"]) == pytest.approx((jittered, grey))
    assert chain["flip"] == 0.5


def test_strength_one_has_the_colours_of_the_papers_contrastive_learners() -> None:
    chain, cifar = chain_of_strength(1.0), presets()["cifar"]
    for key in ("flip", "jitter", "jitter_probability", "grayscale"):
        assert chain[key] == pytest.approx(cifar[key])


def test_no_strength_leaves_whole_images_that_may_be_flipped() -> None:
    images = torch.rand(20, 3, 8, 8, generator=stream(0, "images"))
    views = Views(**ViewsSpec(size=8, **chain_of_strength(0.0)).arguments())(stream(0, "views"), images)
    flipped = [torch.equal(view, image.flip(2)) for view, image in zip(views, images, strict=True)]
    kept = [torch.equal(view, image) for view, image in zip(views, images, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 0 < sum(flipped) < 20


def test_the_strength_replaces_the_surrogates_views_but_for_their_size(surrogate: Any) -> None:
    values = {"epsilon": EPSILON, "surrogate": surrogate()}
    expected = ViewsSpec(size=8, **chain_of_strength(0.8))
    assert aue.Spec(kind="aue", strength=0.8, **values).augmented_surrogate.views == expected
    spec = aap.Spec(kind="aap", strength=0.8, **values)
    assert spec.augmented_surrogate.views == spec.noise_views == expected
    other = aap.Spec(kind="aap", strength=0.8, noise_strength=0.2, **values)
    assert other.augmented_surrogate.views == expected
    assert other.noise_views == ViewsSpec(size=8, **chain_of_strength(0.2))
    assert spec.surrogate == surrogate()


def test_a_surrogate_is_built_with_the_views_of_the_strength(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list = []
    for module in (aue, aap):
        original = module.build_plugin

        def spy(group: str, spec: Any, original: Any = original, **given: Any) -> Any:
            built.append(spec.views)
            return original(group, spec, **given)

        monkeypatch.setattr(module, "build_plugin", spy)
        attack(module, strength=0.8)
    assert built == [ViewsSpec(size=8, **chain_of_strength(0.8))] * 2


@pytest.mark.parametrize("rounds", [1, 2])
def test_minimising_noise_walks_to_its_own_class_pass_after_pass(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet, surrogate: Any, rounds: int
) -> None:
    replace_surrogate(aue, opposed)
    weights = opposed.weights
    towards = (weights[image_set.labels] - weights.mean(dim=0)).sign().view(-1, 3, 8, 8)
    delta = attack(aue, surrogate=surrogate(epochs=rounds)).delta()
    torch.testing.assert_close(delta, rounds * 0.3 * EPSILON * towards, atol=HALF, rtol=0)
    # A round is two whole batches of four in training, then ten images and three steps in batches of 4, 4 and 2.
    assert [is_training for *_, is_training in opposed.seen] == ([True] * 2 + [False] * 9) * rounds


def test_class_wise_noise_walks_to_its_class(attack: Any, replace_surrogate: Any, opposed: Any, surrogate: Any) -> None:
    replace_surrogate(aue, opposed)
    weights = opposed.weights
    towards = (weights - weights.mean(dim=0)).sign().view(-1, 3, 8, 8)
    delta = attack(aue, granularity="class", pgd_steps=1, surrogate=surrogate(epochs=1)).delta()
    assert delta.shape == (3, 3, 8, 8)
    # Each of the three batches of 4, 4 and 2 images moves the classes that it holds.
    steps = (delta / towards / (0.1 * EPSILON)).flatten(1)
    torch.testing.assert_close(steps, steps.round(), atol=0.02, rtol=0)
    assert ((steps > 0.9) & (steps < 3.1)).all()


def test_adversarial_noise_walks_to_the_next_class_or_away_from_its_own(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet
) -> None:
    replace_surrogate(aap, opposed)
    # Noise steps have views of the strength, and at strength 0 these still flip: weights that are the same everywhere
    # do not mind.
    opposed.classifier.weight.data = torch.tensor([[1e-4], [1e-4], [-2e-4]]).expand(3, 192).clone()
    weights, labels = opposed.weights, image_set.labels
    for goal, aims, sign in (("class_targeted", (labels + 1) % 3, 1), ("untargeted", labels, -1)):
        delta = attack(aap, goal=goal, strength=0.0).delta()
        towards = sign * (weights[aims] - weights.mean(dim=0)).sign().view(-1, 3, 8, 8)
        torch.testing.assert_close(delta, 0.3 * EPSILON * towards, atol=HALF, rtol=0)


def test_the_costs_are_every_view_of_every_step(attack: Any) -> None:
    assert attack(aue).image_views == 2 * (2 * 4 + 3 * 10)  # two rounds
    assert attack(aap).image_views == 2 * 2 * 4 + 3 * 10  # two epochs of the network, then the steps


@pytest.mark.parametrize("module", [aue, aap])
def test_the_noise_of_images_that_may_not_change_never_moves(attack: Any, module: Any) -> None:
    perturbed = torch.arange(10) % 2 == 0
    delta = attack(module, perturbed=perturbed).delta()
    assert not delta[~perturbed].any()
    assert (delta[perturbed].abs().flatten(1).amax(dim=1) > 0).all()


def test_the_surrogates_rate_follows_the_cosine_to_its_last_value(
    attack: Any, surrogate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = aue._Search.train_surrogate

    def spy(self: Any, round_: int) -> float:
        loss = original(self, round_)
        rates.append(self.pair.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(aue._Search, "train_surrogate", spy)
    attack(aue, pgd_steps=1, surrogate=surrogate(epochs=4, lr=0.1, final_lr_rel=1e-5))
    cosines = [1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (1, 2, 3, 4)]
    assert rates == pytest.approx(cosines)


@pytest.mark.parametrize(("module", "total"), [(aue, 2), (aap, 5)])
def test_every_round_or_batch_is_reported(attack: Any, module: Any, total: int) -> None:
    reports: list = []
    attack(module, reports=reports)
    assert [(done, out_of) for done, out_of, _ in reports] == [(done, total) for done in range(1, total + 1)]


def test_the_full_scale_specs_are_the_official_settings() -> None:
    spec = load("attacks", "aue")
    assert (spec.granularity, spec.strength, spec.pgd_steps, spec.step_size_rel) == ("sample", 0.6, 5, 0.1)
    surrogate = spec.surrogate
    assert (surrogate.kind, surrogate.epochs, surrogate.lr, surrogate.batch_size) == ("supervised", 60, 0.1, 128)
    assert (surrogate.momentum, surrogate.weight_decay) == (0.9, 1e-4)
    assert surrogate.lr * surrogate.final_lr_rel == pytest.approx(1e-6)
    for goal in ("class_targeted", "untargeted"):
        spec = load("attacks", f"aap_{goal.removeprefix('class_')}")
        assert (spec.goal, spec.strength, spec.noise_strength, spec.pgd_steps) == (goal, 0.4, None, 250)
        assert spec.step_size_rel == pytest.approx(2.5 / 250)
        surrogate = spec.surrogate
        assert (surrogate.kind, surrogate.epochs, surrogate.lr, surrogate.batch_size) == ("supervised", 40, 0.5, 128)
        assert spec.epsilon == 8 / 255
