"""The perturbation: its budget after 8-bit rounding, its gradients, its steps, its starts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.backbones import resnet18
from engine.perturbation import (
    add_poison,
    clip_unit,
    descend_linf,
    initial_noise,
    max_level,
    poison_u8,
    project_linf,
    quantize_levels,
    stratified_mask,
)
from engine.protocols import ImageSet, Poison, Source
from engine.randomness import stream
from engine.victims import simclr
from engine.victimspec import ViewsSpec
from engine.views import Views

EPSILON = 8 / 255
ALL_LEVELS = torch.arange(256, dtype=torch.uint8)

# A budget is a decimal number: 8/255 * 255 is not exactly 8. A millionth of a grey level is not a breach.
BUDGET_SLACK = 1e-6
epsilons = st.floats(0, 127 / 255, exclude_min=True)
pixels = st.integers(0, 255)
# Any float but NaN, mostly of the size of a perturbation, sometimes far outside the ball or infinite.
perturbations = st.floats(-1, 1, width=32) | st.floats(allow_nan=False, width=32)
images_with_delta = st.lists(st.tuples(pixels, perturbations), min_size=1, max_size=12)
quick = settings(max_examples=60, deadline=None)


def released_change(pairs: list[tuple[int, float]], epsilon: float, truncate: bool = False) -> Tensor:
    images = torch.tensor([pixel for pixel, _ in pairs], dtype=torch.uint8)
    delta = torch.tensor([value for _, value in pairs], dtype=torch.float32)
    released = poison_u8(images, delta, epsilon=epsilon, truncate=truncate)
    assert released.dtype == torch.uint8
    return released.int() - images.int()


@quick
@given(images_with_delta, epsilons)
@example([(128, 1.0), (128, -1.0), (0, -1.0), (255, 1.0)], 8 / 255)
@example([(128, 1.0), (128, -1.0)], 127 / 255)
@example([(128, 1.0), (128, -1.0)], 7.5 / 255)
@example([(128, 1.0), (128, -1.0)], math.nextafter(8 / 255, 0))
@example([(128, math.inf), (128, -math.inf)], 0.3 / 255)
def test_a_rounded_poison_stays_inside_the_budget(pairs: list[tuple[int, float]], epsilon: float) -> None:
    assert released_change(pairs, epsilon).abs().max() <= epsilon * 255 + BUDGET_SLACK


@quick
@given(images_with_delta, epsilons)
@example([(level, -1.0) for level in range(256)], 8 / 255)
@example([(level, 1.0) for level in range(256)], 127 / 255)
def test_a_truncated_poison_misses_the_budget_by_one_level_at_most(
    pairs: list[tuple[int, float]], epsilon: float
) -> None:
    assert released_change(pairs, epsilon, truncate=True).abs().max() <= epsilon * 255 + 1 + BUDGET_SLACK


@quick
@given(st.lists(st.tuples(pixels, st.floats(-1, 1, width=32)), min_size=1, max_size=12), st.integers(1, 127))
def test_a_rounded_poison_is_the_nearest_image_to_the_poisoned_one(pairs: list[tuple[int, float]], levels: int) -> None:
    in_ball = [(pixel, value * levels / 255) for pixel, value in pairs]
    change = released_change(in_ball, levels / 255)
    wanted = torch.tensor([min(max(pixel + 255 * value, 0.0), 255.0) - pixel for pixel, value in in_ball])
    assert (change - wanted).abs().max() <= 0.5 + 1e-4  # half a level, and single precision


@pytest.mark.parametrize("truncate", [False, True])
def test_without_noise_all_grey_levels_come_back_identical(truncate: bool) -> None:
    assert torch.equal(poison_u8(ALL_LEVELS, torch.zeros(256), epsilon=EPSILON, truncate=truncate), ALL_LEVELS)


def test_truncation_breaks_the_budget_at_the_published_15_grey_levels() -> None:
    # In single precision (level / 255 - 8 / 255) * 255 falls just short of a whole number for 15 levels.
    released = poison_u8(ALL_LEVELS, torch.full((256,), -EPSILON), epsilon=EPSILON, truncate=True)
    assert ((released.int() - ALL_LEVELS.int()) == -9).sum() == 15


def test_the_full_budget_is_used_where_there_is_room() -> None:
    images = torch.full((2,), 128, dtype=torch.uint8)
    released = poison_u8(images, torch.tensor([EPSILON, -EPSILON]), epsilon=EPSILON)
    assert released.tolist() == [136, 120]


def test_noise_is_clipped_at_black_and_white_and_never_wraps() -> None:
    images = torch.tensor([250, 5], dtype=torch.uint8)
    assert poison_u8(images, torch.tensor([0.4, -0.4]), epsilon=0.4).tolist() == [255, 0]


def test_whole_grey_levels_survive_a_budget_written_as_a_fraction_or_a_decimal() -> None:
    levels = list(range(1, 128))
    assert [max_level(level / 255) for level in levels] == levels
    # Written as a decimal too: 0.031372549 * 255 falls just short of 8.
    decimals = [round(level / 255, 9) for level in levels]
    assert any(epsilon * 255 < level for epsilon, level in zip(decimals, levels, strict=True))
    assert [max_level(epsilon) for epsilon in decimals] == levels
    assert [max_level((level + 0.5) / 255) for level in levels] == levels
    assert [max_level((level - 0.001) / 255) for level in levels] == [level - 1 for level in levels]


def test_a_budget_that_eight_bits_cannot_hold_is_refused() -> None:
    assert quantize_levels(torch.ones(1), epsilon=127 / 255).item() == 127
    with pytest.raises(ValueError, match="128 grey levels"):
        quantize_levels(torch.ones(1), epsilon=128 / 255)


def test_clip_unit_has_gradient_one_on_the_closed_interval_and_zero_outside() -> None:
    # Twice a float's rounding away from the interval is outside; within it, weights that sum to 1.0000001 made white.
    x = torch.tensor([-0.5, -2e-6, 0.0, 0.25, 1.0, 1 + 2e-6, 1.5], dtype=torch.float64, requires_grad=True)
    out = clip_unit(x)
    (grad,) = torch.autograd.grad(out, x, torch.full_like(x, 3.0))
    assert out.tolist() == [0.0, 0.0, 0.0, 0.25, 1.0, 1.0, 1.0]
    assert grad.tolist() == [0.0, 0.0, 3.0, 3.0, 3.0, 0.0, 0.0]


def test_clip_unit_and_add_poison_have_their_numerical_gradients_away_from_the_kinks() -> None:
    x = torch.tensor([-0.7, -0.1, 0.1, 0.5, 0.9, 1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip_unit, x)
    delta = torch.full_like(x, 0.05, requires_grad=True)
    assert torch.autograd.gradcheck(add_poison, (x, delta))


def test_add_poison_adds_and_clips() -> None:
    poisoned = add_poison(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([-0.1, 0.1, 0.1]))
    torch.testing.assert_close(poisoned, torch.tensor([0.0, 0.6, 1.0]))


def test_projection_clips_each_pixel_on_its_own() -> None:
    delta = torch.tensor([-1.0, -0.1, 0.0, 0.05, 3.0])
    assert torch.equal(project_linf(delta, epsilon=0.1), torch.tensor([-0.1, -0.1, 0.0, 0.05, 0.1]))


def test_a_step_is_signed_descent_and_projection_by_hand() -> None:
    delta = torch.tensor([0.0, 0.0, 0.03125, 0.0625, 0.0625, -0.0625, 0.0625])
    grad = torch.tensor([1e-9, -5.0, -2.0, 3.0, -3.0, -1e3, 0.0])
    step = descend_linf(delta, grad, step_size=0.05, epsilon=0.0625)
    torch.testing.assert_close(step, torch.tensor([-0.05, 0.05, 0.0625, 0.0125, 0.0625, -0.0125, 0.0625]))


def test_a_step_leaves_its_input_alone() -> None:
    delta = torch.zeros(3)
    descend_linf(delta, torch.ones(3), step_size=0.1, epsilon=0.1)
    assert not delta.any()


@quick
@given(st.lists(st.tuples(perturbations, perturbations), min_size=1, max_size=12), epsilons, st.floats(0, 2))
def test_a_step_never_leaves_the_ball(pairs: list[tuple[float, float]], epsilon: float, step_size: float) -> None:
    delta, grad = torch.tensor(pairs, dtype=torch.float32).unbind(dim=1)
    step = descend_linf(delta, grad, step_size=step_size, epsilon=epsilon)
    assert step.abs().max() <= torch.tensor(epsilon, dtype=torch.float32)


@pytest.mark.parametrize("bound", [1 / 32, -1 / 32])
@pytest.mark.parametrize("jitter", [0.0, 1.0], ids=["without jitter", "with jitter"])
def test_pixels_on_the_bound_of_the_ball_move_inside_through_the_whole_chain(bound: float, jitter: float) -> None:
    # A clamp of the noise inside the graph would give these pixels no gradient from torch 2.14 on: the
    # noise would stay on its bound for ever while the loss looks plausible.
    generator = stream(0, "images")
    backbone = resnet18.Spec(kind="resnet18", width=4, stages=(1, 1))
    views = ViewsSpec(size=16, crop_scale=None, grayscale=0.0, jitter_probability=jitter)
    source = Source(mean=(0.5,) * 3, std=(0.25,) * 3, num_classes=2)
    victim = simclr.build(
        simclr.Spec(kind="simclr", backbone=backbone, views=views), source=source, generator=stream(0, "weights")
    )
    victim.network.eval()
    images = 0.3 + 0.4 * torch.rand(4, 3, 16, 16, generator=generator)
    delta = torch.full_like(images, bound, requires_grad=True)
    poisoned = add_poison(images, delta)
    draws = stream(0, "views")
    loss = victim.loss([views(draws, poisoned) for views in victim.views], torch.zeros(4))
    (grad,) = torch.autograd.grad(loss, delta)

    step = descend_linf(delta.detach(), grad, step_size=1 / 64, epsilon=1 / 32)
    inward = grad * bound > 0
    assert 0.2 < inward.float().mean() < 0.8
    assert torch.equal(step[inward], torch.full_like(step[inward], bound / 2))
    assert torch.equal(step[~inward], torch.full_like(step[~inward], bound))


def test_pixels_that_are_exactly_white_or_black_keep_their_gradient_through_the_views() -> None:
    # x + delta is exactly 1 (0) in binary; a plain clamp has gradient 0 there from torch 2.14 on.
    images = torch.tensor([1 - 1 / 32, 1 / 32]).repeat_interleave(3 * 64).view(2, 3, 8, 8)
    delta = torch.tensor([1 / 32, -1 / 32])[:, None, None, None].expand_as(images).clone().requires_grad_()
    views = Views(
        8, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, jitter=(0.0, 0.0, 0.0, 0.1), jitter_probability=1.0, grayscale=0.0
    )
    poisoned = add_poison(images, delta)
    assert poisoned.detach().flatten(1).amin(1).tolist() == [1.0, 0.0]
    (grad,) = torch.autograd.grad(views(stream(0, "views"), poisoned).sum(), delta)
    assert (grad.sum(dim=(1, 2, 3)) > 0).all()


def test_a_pixel_that_the_image_clip_hides_has_no_gradient_and_stays() -> None:
    delta = torch.tensor([0.5, -0.5], requires_grad=True)
    (grad,) = torch.autograd.grad(add_poison(torch.tensor([0.75, 0.25]), delta).sum(), delta)
    step = descend_linf(delta.detach(), grad, step_size=0.1, epsilon=0.5)
    assert step.tolist() == [0.5, -0.5]


def image_set(count: int = 6, classes: int = 3) -> ImageSet:
    images = torch.zeros(count, 3, 4, 5, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % classes, tuple("abcdefghij"[:classes]))


def start(init: str | Poison, granularity: str, *, images: ImageSet | None = None, seed: int = 0) -> Tensor:
    images = image_set() if images is None else images
    generator = stream(seed, "delta")
    return EPSILON * initial_noise(init, images, granularity=granularity, epsilon=EPSILON, generator=generator).float()


@pytest.mark.parametrize(("granularity", "rows"), [("sample", 6), ("class", 3)])
def test_noise_starts_at_zero_or_uniform_in_the_ball_with_a_row_an_image_or_a_class(
    granularity: str, rows: int
) -> None:
    zero, uniform = start("zero", granularity), start("uniform", granularity)
    assert zero.shape == uniform.shape == (rows, 3, 4, 5)
    assert not zero.any()
    assert 0.9 * EPSILON < uniform.abs().max() <= EPSILON
    # A uniform's standard deviation; 180 values or more know it to 4 %.
    assert uniform.std().item() == pytest.approx(EPSILON / math.sqrt(3), rel=0.15)
    assert uniform.mean().abs() < 0.2 * EPSILON
    assert torch.equal(uniform, start("uniform", granularity))
    assert not torch.equal(uniform, start("uniform", granularity, seed=1))


def test_sample_wise_noise_can_start_from_the_noise_of_each_images_class() -> None:
    poison = Poison(start("uniform", "class"), "class")
    delta = start(poison, "sample")
    assert torch.allclose(delta, poison.delta()[[0, 1, 2, 0, 1, 2]], atol=EPSILON / 1000)


@pytest.mark.parametrize("granularity", ["sample", "class"])
def test_noise_can_start_from_noise_of_its_own_kind_without_sharing_memory(granularity: str) -> None:
    poison = Poison(start("uniform", granularity), granularity)
    delta = start(poison, granularity)
    assert torch.allclose(delta, poison.delta(), atol=EPSILON / 1000)
    delta.zero_()
    assert poison.noise.any()


def test_noise_that_starts_from_a_larger_ball_is_projected() -> None:
    poison = Poison(torch.full((3, 3, 4, 5), 1.0), "class")
    assert torch.equal(start(poison, "sample"), torch.full((6, 3, 4, 5), EPSILON))


@pytest.mark.parametrize("classes", [3, 6], ids=["fewer classes than images", "as many classes as images"])
def test_class_wise_noise_cannot_start_from_sample_wise_noise(classes: int) -> None:
    images = image_set(6, classes)
    with pytest.raises(ValueError, match=r"class-wise noise .* cannot start from sample-wise noise"):
        start(Poison(start("uniform", "sample"), "sample"), "class", images=images)


def test_noise_cannot_start_from_noise_of_other_images() -> None:
    with pytest.raises(ValueError, match="cannot start from"):
        start(Poison(torch.zeros(7, 3, 4, 5), "sample"), "sample")


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="'gaussian'"):
        start("gaussian", "sample")


def mask_of(labels: list[int], fraction: float, seed: int = 0) -> Tensor:
    return stratified_mask(torch.tensor(labels), fraction=fraction, generator=stream(seed, "mask"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1))
def test_every_class_gives_its_rounded_share(labels: list[int], fraction: float) -> None:
    mask = mask_of(labels, fraction)
    assert mask.dtype == torch.bool
    counts = {label: labels.count(label) for label in labels}
    chosen = {label: int(mask[torch.tensor(labels) == label].sum()) for label in counts}
    assert chosen == {label: round(fraction * count) for label, count in counts.items()}


def test_the_choice_of_images_depends_on_the_stream_alone() -> None:
    labels = [0, 1] * 20
    assert torch.equal(mask_of(labels, 0.5), mask_of(labels, 0.5))
    assert not torch.equal(mask_of(labels, 0.5), mask_of(labels, 0.5, seed=1))


def test_every_image_of_a_class_is_equally_likely_to_be_chosen() -> None:
    trials, fraction = 400, 0.3
    chosen = sum(mask_of([0] * 10 + [1] * 10, fraction, seed).float() for seed in range(trials))
    # Twenty binomial counts, each within four standard deviations of its mean: 1e-3 for all by chance.
    assert (chosen - trials * fraction).abs().max() < 4 * math.sqrt(trials * fraction * (1 - fraction))
