"""TUE: the separability of noise by class, and what its objective is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from engine.attacks import tue
from engine.attacks.tue import _Search
from engine.backbones import resnet18
from engine.losses import class_separability
from engine.protocols import ImageSet, Poison
from engine.randomness import stream
from engine.specfiles import load
from engine.victims import moco_v2, simclr
from engine.victimspec import ViewsSpec

EPSILON = 32 / 255
BACKBONE = resnet18.Spec(kind="resnet18", width=4, stages=(1,))
SIMCLR = simclr.Spec(kind="simclr", backbone=BACKBONE, views=ViewsSpec(size=8), batch_size=5, lr=0.05)
MOCO = moco_v2.Spec(kind="moco_v2", backbone=BACKBONE, views=ViewsSpec(size=8), batch_size=5, queue=10, lr=0.05)
FORMS = ["full", "centres"]


@pytest.fixture
def spec_with() -> Callable[..., tue.Spec]:
    def make(**changes: Any) -> tue.Spec:
        values = {"rounds": 2, "model_steps": 3, "pgd_steps": 2, "ssl_weight": 1.0, "csd_weight": 0.5}
        return tue.Spec(kind="tue", epsilon=EPSILON, **(values | {"surrogate": SIMCLR} | changes))

    return make


@pytest.fixture
def attack(spec_with: Any, context: Any, image_set: ImageSet) -> Callable[..., Poison]:
    def run(**changes: Any) -> Poison:
        given = {key: changes.pop(key) for key in ("init", "perturbed", "reports") if key in changes}
        return tue.build(spec_with(**changes))(image_set, context(**({"init": "uniform"} | given)))

    return run


def separability_by_loops(noise: Tensor, labels: list[int]) -> float:
    """Return the mean over ordered pairs of classes, written with loops."""
    classes = sorted(set(labels))
    centres, scatters = {}, {}
    for k in classes:
        members = [row for row, label in zip(noise, labels, strict=True) if label == k]
        centres[k] = sum(members) / len(members)
        scatters[k] = sum(float((member - centres[k]).pow(2).sum().sqrt()) for member in members) / len(members)
    ratios = [
        (scatters[i] + scatters[j] + 1e-5) / (float((centres[i] - centres[j]).pow(2).sum().sqrt()) + 1e-5)
        for i in classes
        for j in classes
        if i != j
    ]
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("form", FORMS)
def test_separability_is_what_the_loops_give(form: Any) -> None:
    noise = torch.randn(23, 12, generator=stream(0, "noise"))
    labels = torch.randint(0, 6, (23,), generator=stream(0, "labels"))
    labels[labels == 4] = 2  # a class without members
    labels[-1] = 7  # and one with a single one
    found = class_separability(noise, labels, num_classes=8, gradient=form)
    assert found.item() == pytest.approx(separability_by_loops(noise, labels.tolist()), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_separability_by_hand(form: Any) -> None:
    # Class 0 at (0, 0) and (0, 2): centre (0, 1), scatter 1. Class 1 at (4, 1) and (2, 1): centre (3, 1), scatter 1.
    noise = torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 1.0], [2.0, 1.0]])
    found = class_separability(noise, torch.tensor([0, 0, 1, 1]), num_classes=2, gradient=form)
    assert found.item() == pytest.approx((1 + 1 + 1e-5) / (3 + 1e-5))


def test_one_form_sends_its_gradient_through_the_centres_alone() -> None:
    labels, gradients = torch.tensor([0, 0, 1, 1]), {}
    for form in FORMS:
        noise = torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 1.0], [2.0, 1.0]], requires_grad=True)
        class_separability(noise, labels, num_classes=2, gradient=form).backward()
        gradients[form] = noise.grad
    # The value is 2 / d with d = 3: each member moves its centre by half, and d by as much: 2 / 9 / 2 a member.
    through_centres = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]) / 9
    torch.testing.assert_close(gradients["centres"], through_centres, atol=1e-5, rtol=0)
    # A member moves its class's scatter by half its direction from the centre, less the centre's own motion, which
    # cancels here; the value moves by a third of that.
    through_scatters = torch.tensor([[0.0, -1.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]) / 6
    torch.testing.assert_close(gradients["full"], through_centres + through_scatters, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_equal_noise_and_a_batch_of_one_class_have_no_gradient(form: Any) -> None:
    for labels in (torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1])):
        noise = torch.zeros(3, 4, requires_grad=True)
        value = class_separability(noise, labels, num_classes=2, gradient=form)
        value.backward()
        assert torch.equal(noise.grad, torch.zeros(3, 4))  # type: ignore[arg-type]
        assert value.item() == (1.0 if len(labels.unique()) == 2 else 0.0)


@pytest.mark.parametrize("surrogate", [SIMCLR, MOCO])
@pytest.mark.parametrize("form", FORMS)
def test_noise_becomes_more_separable(attack: Any, image_set: ImageSet, surrogate: Any, form: Any) -> None:
    values = []
    for rounds in (1, 8):
        weights = {"ssl_weight": 1.0, "csd_weight": 10.0, "csd_gradient": form}
        noise = attack(surrogate=surrogate, rounds=rounds, model_steps=1, **weights).delta().flatten(1)
        values.append(class_separability(noise, image_set.labels, num_classes=3, gradient=form))
    assert values[1] < 0.7 * values[0]


def test_the_objective_is_the_weighted_sum_of_both(
    spec_with: Any, replace_surrogate: Any, opposed: Any, context: Any, image_set: ImageSet
) -> None:
    replace_surrogate(tue, opposed)
    search = _Search(spec_with(ssl_weight=2.0, csd_weight=3.0), image_set, context())
    delta, images = torch.randn(10, 3, 8, 8, generator=stream(0, "delta")), image_set.images_u8 / 255
    found = search._objective(opposed, [images], image_set.labels, delta)
    parts = (
        2 * opposed.loss([images], image_set.labels),
        class_separability(delta.flatten(1), image_set.labels, num_classes=3, gradient="centres"),
    )
    torch.testing.assert_close(found, parts[0] + 3 * parts[1])


def test_the_contrastive_gradient_passes_the_key_branch_on_request_alone(attack: Any) -> None:
    # Steps follow a sign: half of a step tells most of them apart.
    poisons = [attack(surrogate=MOCO, csd_weight=0.0, gradient=gradient).delta() for gradient in ("single", "dual")]
    assert ((poisons[0] - poisons[1]).abs() > 0.05 * EPSILON).float().mean() > 0.1


def test_without_a_contrastive_weight_no_network_plays_a_part(attack: Any) -> None:
    alone = [attack(surrogate=each, ssl_weight=0.0) for each in (SIMCLR, MOCO)]
    assert torch.equal(alone[0].delta(), alone[1].delta())
    assert [poison.image_views for poison in alone] == [0, 0]


def test_the_cost_is_every_view_of_every_step(attack: Any) -> None:
    assert attack().image_views == 2 * (3 * 5 * 2 + 2 * 10 * 2)  # rounds of model steps and of noise steps, two views


def test_the_noise_of_images_that_may_not_change_never_moves(attack: Any, spec_with: Any, image_set: ImageSet) -> None:
    perturbed = torch.arange(10) % 2 == 0
    delta = attack(init="zero", perturbed=perturbed).delta()
    assert not delta[~perturbed].any()
    assert delta[perturbed].any()


def test_an_attack_without_an_objective_is_refused(spec_with: Any) -> None:
    with pytest.raises(ValidationError, match="csd_weight: must be positive where ssl_weight is 0"):
        spec_with(ssl_weight=0.0, csd_weight=0.0)


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [("tue_simclr", "simclr", (40, 20, 20, 0.0, 0.1)), ("tue_moco", "moco_v2", (200, 100, 5, 1.0, 1.0))],
)
def test_the_full_scale_specs_are_the_official_settings(name: str, kind: str, values: tuple) -> None:
    spec = load("attacks", name)
    assert (spec.rounds, spec.model_steps, spec.pgd_steps, spec.ssl_weight, spec.csd_weight) == values
    assert (spec.epsilon, spec.step_size_rel, spec.csd_gradient, spec.gradient) == (8 / 255, 0.1, "centres", "dual")
    assert spec.surrogate.kind == kind


def test_mocos_temperature_is_the_official_one() -> None:
    assert load("attacks", "tue_moco").surrogate.temperature == 0.2
