"""Unlearnable Examples: where noise goes, how classes share it, when the search ends, what its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from engine.attacks import adversarial_poisoning, unlearnable_examples
from engine.attacks.unlearnable_examples import _Search
from engine.protocols import ImageSet, Poison
from engine.specfiles import load

EPSILON = 32 / 255
HALF = EPSILON / 1000  # noise is kept in half precision in units of epsilon, which resolves 1/2048
STEP = 0.1 * EPSILON
GRANULARITIES = ["sample", "class"]

Spec = unlearnable_examples.Spec


@pytest.fixture
def spec_with(surrogate: Any) -> Callable[..., Spec]:
    def make(**changes: Any) -> Spec:
        values = {"granularity": "sample", "epsilon": EPSILON, "max_rounds": 1, "model_steps": 2, "pgd_steps": 3}
        values |= {"surrogate": surrogate(), "target_error": 0.0} | changes
        return Spec(kind="unlearnable_examples", **values)

    return make


@pytest.fixture
def attack(spec_with: Any, context: Any, image_set: ImageSet) -> Callable[..., Poison]:
    def run(**changes: Any) -> Poison:
        given = {key: changes.pop(key) for key in ("init", "perturbed", "reports") if key in changes}
        return unlearnable_examples.build(spec_with(**changes))(image_set, context(**given))

    return run


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the search find given errors, round after round."""

    def give(*values: float) -> None:
        found = iter(values)
        monkeypatch.setattr(_Search, "error", lambda self: next(found))

    return give


@pytest.mark.parametrize(("steps", "reached"), [(1, STEP), (3, 3 * STEP), (12, EPSILON)])
def test_every_image_walks_straight_to_its_own_class(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet, steps: int, reached: float
) -> None:
    replace_surrogate(unlearnable_examples, opposed)
    weights = opposed.weights
    towards = (weights[image_set.labels] - weights.mean(dim=0)).sign().view(-1, 3, 8, 8)
    torch.testing.assert_close(attack(pgd_steps=steps).delta(), reached * towards, atol=HALF, rtol=0)


def test_its_noise_is_the_opposite_of_untargeted_adversarial_noise(
    attack: Any, replace_surrogate: Any, opposed: Any, surrogate: Any, context: Any, image_set: ImageSet
) -> None:
    for module in (unlearnable_examples, adversarial_poisoning):
        replace_surrogate(module, opposed)
    values = {"epsilon": EPSILON, "goal": "untargeted", "pgd_steps": 3, "step_size_rel": 0.1, "trials": 1}
    spec = adversarial_poisoning.Spec(kind="adversarial_poisoning", start="init", surrogate=surrogate(), **values)
    adversarial = adversarial_poisoning.build(spec)(image_set, context())
    assert torch.equal(attack().delta(), -adversarial.delta())


def class_wise_by_loops(search: _Search, delta_KCHW: Tensor, weights: Tensor, *, steps: int) -> Tensor:
    """Return class-wise noise after one phase, as the official code computes it: image after image.

    The gradient of the cross-entropy of logits W x with respect to x is W' (softmax - one-hot).
    """
    images, perturbed = search.noise.images, search.noise.perturbed
    delta = delta_KCHW.clone()
    for rows in search.noise_batches:
        moved: dict[int, list[Tensor]] = {}
        for row in rows.tolist():
            if not perturbed[row]:
                continue
            label, clean = int(images.labels[row]), images.images_u8[row].float() / 255
            own = delta[label].clone()
            for _ in range(steps):
                seen = (clean + own).clamp(0, 1)
                probabilities = (weights @ seen.flatten()).softmax(dim=0)
                probabilities[label] -= 1
                gradient = (weights.T @ probabilities).view_as(seen)
                own = (seen - STEP * gradient.sign() - clean).clamp(-EPSILON, EPSILON)
            moved.setdefault(label, []).append(own)
        for label, members in moved.items():
            delta[label] = torch.stack(members).mean(dim=0).clamp(-EPSILON, EPSILON)
    return delta


@pytest.mark.parametrize("steps", [1, 4])
def test_class_wise_noise_is_the_mean_of_what_its_members_would_do(
    spec_with: Any, replace_surrogate: Any, classifier: Any, context: Any, image_set: ImageSet, steps: int
) -> None:
    pixels = image_set.images_u8.clone()
    pixels[:, :, :2], pixels[:, :, 2:4] = 0, 255  # black and white, beyond which noise may not drive an image
    images = ImageSet(pixels, image_set.labels, image_set.class_names)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(3, 192, generator=generator) / 5
    replace_surrogate(unlearnable_examples, classifier(weights))
    start = Poison((2 * torch.rand(3, 3, 8, 8, generator=generator) - 1) * EPSILON, "class")
    perturbed = torch.arange(10) != 4
    spec = spec_with(granularity="class", pgd_steps=steps)
    search = _Search(spec, images, context(start, perturbed))
    assert len(search.noise_batches) == 3  # so that later batches meet what earlier ones left
    expected = class_wise_by_loops(search, search.noise.values.block.float() * EPSILON, weights, steps=steps)
    search.learn_noise()
    torch.testing.assert_close(search.noise.values.block.float() * EPSILON, expected, atol=3 * HALF, rtol=0)


def test_a_class_whose_images_may_not_change_keeps_its_noise(attack: Any) -> None:
    start = Poison(torch.full((3, 3, 8, 8), EPSILON / 2), "class")
    delta = attack(granularity="class", init=start, perturbed=torch.arange(10) % 3 != 1).delta()
    assert torch.equal(delta[1], torch.full_like(delta[1], EPSILON / 2))
    assert not torch.equal(delta[0], delta[1])


def test_the_noise_of_images_that_may_not_change_never_moves(
    attack: Any, replace_surrogate: Any, opposed: Any, image_set: ImageSet
) -> None:
    replace_surrogate(unlearnable_examples, opposed)
    perturbed = torch.arange(10) % 2 == 0
    delta = attack(perturbed=perturbed).delta()
    assert not delta[~perturbed].any()
    assert (delta[perturbed].abs().flatten(1).amax(dim=1) > 0).all()
    clean = {tuple(image.flatten().tolist()) for image in image_set.images_u8[~perturbed] / 255}
    seen = [tuple(image.flatten().tolist()) in clean for view, *_ in opposed.seen[2:] for image in view]
    assert sum(seen) == 3 * 5  # three noise steps show each of the five clean images once


def test_class_wise_noise_is_learnt_on_a_share_of_every_class(
    spec_with: Any, context: Any, surrogate: Any, image_set: ImageSet
) -> None:
    spec = spec_with(granularity="class", noise_fraction=0.5)
    rows = torch.cat(_Search(spec, image_set, context()).noise_batches)
    assert torch.bincount(image_set.labels[rows]).tolist() == [2, 2, 2]  # of four, three and three
    with pytest.raises(ValidationError, match="noise_fraction: must be 1"):
        spec_with(noise_fraction=0.5)


def test_the_search_ends_when_the_surrogate_makes_almost_no_error(attack: Any, errors: Any) -> None:
    errors(0.5, 0.02, 0.01, 0.0)
    reports: list = []
    poison = attack(max_rounds=9, target_error=0.01, reports=reports)
    assert [(done, total) for done, total, _ in reports] == [(1, 9), (2, 9), (9, 9)]
    assert reports[-1][2].endswith("error 0.010, target 0.01: reached after 3 rounds")
    assert poison.image_views == 3 * (2 * 4 + 3 * 10)  # rounds of model steps on batches, noise steps on images


def test_the_search_ends_at_its_bound_and_says_so(attack: Any, errors: Any) -> None:
    errors(0.5, 0.4)
    reports: list = []
    attack(max_rounds=2, target_error=0.01, reports=reports)
    assert [(done, total) for done, total, _ in reports] == [(1, 2), (2, 2)]
    assert reports[-1][2].endswith("error 0.400, target 0.01: not reached")
    assert "reached" not in reports[0][2]


def test_the_target_does_not_end_the_search_before_its_least_rounds(attack: Any, errors: Any, spec_with: Any) -> None:
    errors(0.0, 0.0, 0.0, 0.0)
    reports: list = []
    attack(max_rounds=9, min_rounds=3, reports=reports)
    assert reports[-1][2].endswith("reached after 3 rounds")
    with pytest.raises(ValidationError, match="min_rounds: must not exceed max_rounds"):
        spec_with(max_rounds=2, min_rounds=3)


def test_the_error_is_that_of_the_poisoned_images_that_may_change(
    spec_with: Any, replace_surrogate: Any, classifier: Any, context: Any, image_set: ImageSet
) -> None:
    # Every image is taken for class 0; of the seven that may change, three are of it.
    weights = torch.zeros(3, 192)
    weights[0] = 1.0
    replace_surrogate(unlearnable_examples, classifier(weights))
    perturbed = torch.tensor([True] * 7 + [False] * 3)
    search = _Search(spec_with(), image_set, context(perturbed=perturbed))
    assert search.error() == pytest.approx(4 / 7)
    # Noise that swaps which side of zero the evidence lies on is seen.
    weights[0], weights[1] = -1.0, 1.0
    replace_surrogate(unlearnable_examples, classifier(weights))
    assert _Search(spec_with(), image_set, context(perturbed=perturbed)).error() == pytest.approx(5 / 7)


def test_a_model_step_moves_the_weights_by_no_more_than_the_clipped_gradient(
    spec_with: Any, replace_surrogate: Any, classifier: Any, context: Any, surrogate: Any, image_set: ImageSet
) -> None:
    weights = torch.zeros(3, 192)
    weights[0], weights[1] = 1.0, -1.0
    learner = classifier(100 * weights)
    replace_surrogate(unlearnable_examples, learner)
    slow = surrogate(lr=0.01, weight_decay=0.0)
    search = _Search(spec_with(surrogate=slow, model_steps=1, max_grad_norm=0.5), image_set, context())
    search.train_surrogate()
    assert (learner.weights - 100 * weights).norm().item() == pytest.approx(0.01 * 0.5, rel=0.02)
    assert search.pair.optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_negative_noise_is_dropped_on_request_alone(attack: Any, granularity: str) -> None:
    whole = attack(granularity=granularity).delta()
    dropped = attack(granularity=granularity, drop_negative=True).delta()
    assert (whole < 0).any()
    assert torch.equal(dropped, whole.clamp(min=0))


@pytest.mark.parametrize(("granularity", "steps", "fraction"), [("sample", 20, 1.0), ("class", 1, 0.2)])
def test_the_full_scale_specs_are_the_official_settings(granularity: str, steps: int, fraction: float) -> None:
    spec = load("attacks", f"ue_{granularity}")
    assert (spec.granularity, spec.pgd_steps, spec.noise_fraction) == (granularity, steps, fraction)
    assert (spec.epsilon, spec.model_steps, spec.step_size_rel) == (8 / 255, 10, 0.1)
    assert (spec.target_error, spec.max_grad_norm, spec.min_rounds) == (0.01, 5.0, 1)
    assert not spec.drop_negative
    surrogate = spec.surrogate
    assert (surrogate.kind, surrogate.lr, surrogate.batch_size) == ("supervised", 0.1, 512)
    assert (surrogate.momentum, surrogate.weight_decay) == (0.9, 5e-4)
    assert surrogate.views.preset == "none"
