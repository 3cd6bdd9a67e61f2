"""Adversarial Poisoning: where its steps go, which of its starts is kept, what its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.attacks import adversarial_poisoning
from engine.protocols import ImageSet, Poison
from engine.randomness import stream
from engine.specfiles import load
from engine.training.reference import next_class
from engine.victimspec import ViewsSpec

EPSILON = 32 / 255
HALF = EPSILON / 1000  # noise is kept in half precision in units of epsilon, which resolves 1/2048
STEP = 0.1 * EPSILON


@pytest.fixture
def attack(surrogate: Any, context: Any, image_set: ImageSet) -> Callable[..., Poison]:
    def run(images: ImageSet = image_set, context: Any = context, **changes: Any) -> Poison:
        given = {key: changes.pop(key) for key in ("init", "perturbed", "reports") if key in changes}
        values = {"epsilon": EPSILON, "pgd_steps": 3, "step_size_rel": 0.1, "noise_batch_size": 4, "trials": 1}
        values |= {"start": "init", "surrogate": surrogate()} | changes
        spec = adversarial_poisoning.Spec(kind="adversarial_poisoning", **values)
        return adversarial_poisoning.build(spec)(images, context(**given))

    return run


def direction_to(victim: Any, targets: Tensor) -> Tensor:
    """Return the sign of the step that lowers the cross-entropy of a class, where all classes are as likely."""
    weights = victim.weights
    return (weights[targets] - weights.mean(dim=0)).sign().view(-1, 3, 8, 8)


@pytest.mark.parametrize(("steps", "reached"), [(1, STEP), (3, 3 * STEP), (12, EPSILON)])
def test_every_image_walks_straight_to_the_next_class(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet, steps: int, reached: float
) -> None:
    replace_surrogate(adversarial_poisoning, opposed)
    delta = attack(pgd_steps=steps).delta()
    expected = reached * direction_to(opposed, (image_set.labels + 1) % 3)
    torch.testing.assert_close(delta, expected, atol=HALF, rtol=0)


def test_untargeted_noise_walks_away_from_the_true_class(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet
) -> None:
    replace_surrogate(adversarial_poisoning, opposed)
    delta = attack(goal="untargeted").delta()
    torch.testing.assert_close(delta, -3 * STEP * direction_to(opposed, image_set.labels), atol=HALF, rtol=0)
    # The first two classes are alike: where the next class of one is the other, the two goals are opposite.
    first = image_set.labels == 0
    assert torch.equal(attack().delta()[first], -delta[first])


def test_the_last_class_is_followed_by_the_first() -> None:
    assert next_class(torch.tensor([0, 1, 2]), 3).tolist() == [1, 2, 0]


def test_the_network_learns_from_clean_images_and_stands_still_under_attack(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet
) -> None:
    replace_surrogate(adversarial_poisoning, opposed)
    attack(init="uniform")
    training, attacked = opposed.seen[:4], opposed.seen[4:]
    assert [is_training for *_, is_training in opposed.seen] == [True] * 4 + [False] * 9
    clean = {tuple(image.flatten().tolist()) for image in image_set.images_u8 / 255}
    assert all(tuple(image.flatten().tolist()) in clean for view, *_ in training for image in view)
    assert not any(tuple(image.flatten().tolist()) in clean for view, *_ in attacked for image in view)
    assert opposed.classifier.weight.grad is None or not opposed.classifier.weight.requires_grad


def test_a_batch_that_is_not_whole_is_attacked_too(attack: Any) -> None:
    assert (attack(noise_batch_size=4).delta().abs().flatten(1).amax(dim=1) > 0).all()


def test_the_noise_of_images_that_may_not_change_never_moves(attack: Any) -> None:
    perturbed = torch.arange(10) % 2 == 0
    start = Poison(torch.full((10, 3, 8, 8), EPSILON / 2), "sample")
    delta = attack(perturbed=perturbed, init=start).delta()
    assert torch.equal(delta[~perturbed], start.delta()[~perturbed])
    assert not torch.equal(delta[perturbed], start.delta()[perturbed])


@pytest.mark.parametrize(("pixel", "towards"), [(0, 1.0), (255, -1.0)])
def test_pixels_that_noise_drove_beyond_the_range_come_back(
    attack: Any, replace_surrogate: Any, classifier: Any, pixel: int, towards: float
) -> None:
    weights = torch.full((3, 192), -1e-4)
    weights[1:] = 1e-4
    replace_surrogate(adversarial_poisoning, classifier(towards * weights))
    images = ImageSet(torch.full((10, 3, 8, 8), pixel, dtype=torch.uint8), torch.zeros(10).long(), ("a", "b", "c"))
    start = Poison(torch.full((3, 3, 8, 8), -towards * EPSILON), "class")
    delta = attack(images, init=start, pgd_steps=2).delta()
    torch.testing.assert_close(delta, torch.full_like(delta, towards * 2 * STEP), atol=HALF, rtol=0)


def test_the_start_is_normal_noise_clipped_to_the_ball(attack: Any) -> None:
    start = attack(start="normal", pgd_steps=1, step_size_rel=1e-6).delta()
    expected = torch.randn(10, 3, 8, 8, generator=stream(0, "attack", "delta")).clamp(-1, 1) * EPSILON
    torch.testing.assert_close(start, expected, atol=HALF, rtol=0)
    assert 0.28 < (start.abs() >= 0.999 * EPSILON).float().mean() < 0.36  # 31.7 % lie beyond one deviation


def test_of_several_trials_the_one_of_the_lowest_objective_is_kept(
    attack: Any, replace_surrogate: Any, classifier: Any, image_set: ImageSet
) -> None:
    weights = torch.randn(3, 192, generator=stream(1, "weights"))
    replace_surrogate(adversarial_poisoning, classifier(weights))
    generator = stream(0, "attack", "delta")
    starts = [torch.randn(10, 3, 8, 8, generator=generator).clamp(-1, 1) * EPSILON for _ in range(5)]
    clean, targets = image_set.images_u8 / 255, next_class(image_set.labels, 3)
    objectives = [cross_entropy((clean + start).flatten(1) @ weights.T, targets) for start in starts]
    best = int(torch.stack(objectives).argmin())
    assert best not in (0, 4)  # else the first or the last would do
    delta = attack(start="normal", trials=5, pgd_steps=1, step_size_rel=1e-6).delta()
    torch.testing.assert_close(delta, starts[best], atol=HALF, rtol=0)


def test_the_cost_counts_the_network_and_every_trial(attack: Any) -> None:
    # Two epochs of two whole batches of four; three trials of three steps on ten images.
    assert attack(trials=3).image_views == 2 * 2 * 4 + 3 * 3 * 10


def test_noise_steps_see_the_networks_views_or_their_own(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet
) -> None:
    replace_surrogate(adversarial_poisoning, opposed)
    attack(pgd_steps=1, step_size_rel=1e-6)
    own = opposed.seen[-1][0]
    attack(views=ViewsSpec(preset="none", size=8, grayscale=1.0), pgd_steps=1, step_size_rel=1e-6)
    other = opposed.seen[-1][0]
    assert not torch.allclose(own[:, 0], own[:, 1], atol=0.01)
    torch.testing.assert_close(other[:, 0], other[:, 1])


def test_epochs_and_batches_are_reported(attack: Any) -> None:
    reports: list = []
    attack(trials=2, reports=reports)
    assert [(done, total) for done, total, _ in reports] == [(done, 8) for done in range(1, 9)]
    assert "reference network" in reports[1][2]
    assert "trial 2 of 2" in reports[-1][2]


@pytest.mark.parametrize("goal", ["class_targeted", "untargeted"])
def test_the_full_scale_specs_are_the_official_settings(goal: str) -> None:
    spec = load("attacks", f"ap_{goal.removeprefix('class_')}")
    assert spec.goal == goal
    assert (spec.epsilon, spec.pgd_steps, spec.step_size_rel, spec.trials) == (8 / 255, 250, 0.05, 8)
    assert (spec.start, spec.noise_batch_size, spec.poison_fraction) == ("normal", 512, 1.0)
    surrogate = spec.surrogate
    assert (surrogate.kind, surrogate.epochs, surrogate.lr, surrogate.batch_size) == ("supervised", 40, 0.1, 128)
    assert (surrogate.momentum, surrogate.weight_decay) == (0.9, 5e-4)
    views = surrogate.views
    assert (views.crop_scale, views.shift, views.flip) == (None, 4, 0.5)
    assert (views.jitter_probability, views.grayscale) == (0, 0)
    assert spec.views is None
