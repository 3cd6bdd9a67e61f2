"""The whole chain: its draws, its replay, its order, its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from engine.perturbation import add_poison
from engine.randomness import stream
from engine.views import ViewParameters, Views
from engine.views.arithmetic import EIGHT_BIT, FLOAT

Photograph = Callable[[int, int, int], Tensor]

CIFAR = Views(
    size=32,
    crop_scale=(0.2, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale=0.2,
)
# Everything that can happen to a view, as in BYOL.
ALL = replace(
    CIFAR, blur_probability=0.6, blur_sigma=(0.5, 1.5), blur_kernel=5, solarize_probability=0.3, solarize_threshold=0.5
)
DRAWS = 20_000


@pytest.fixture(scope="module")
def drawn() -> ViewParameters:
    return ALL.sample(stream(0, "views"), DRAWS, (32, 32))


@pytest.fixture(scope="module")
def images(photograph: Photograph) -> Tensor:
    return torch.stack([photograph(seed, 32, 32) for seed in range(16)]).float() / 255


def parts(parameters: ViewParameters) -> list[Tensor]:
    return [getattr(parameters, field.name) for field in fields(parameters)]


def is_neutral(parameters: ViewParameters) -> Tensor:
    return (parameters.factors == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(dim=1)


@pytest.mark.parametrize(
    ("of", "probability"),
    [
        (lambda p: p.flip, 0.5),
        (lambda p: p.grey, 0.2),
        (lambda p: ~is_neutral(p), 0.8),
        (lambda p: p.sigma > 0, 0.6),
        (lambda p: p.solarized, 0.3),
        (lambda p: p.flip & p.grey & ~is_neutral(p), 0.08),
        (lambda p: p.solarized & (p.sigma > 0) & ~p.flip, 0.09),
    ],
    ids=["flip", "grayscale", "jitter", "blur", "solarization", "three, independently", "three others"],
)
def test_operations_happen_with_their_probability(
    drawn: ViewParameters, of: Callable[[ViewParameters], Tensor], probability: float
) -> None:
    deviation = math.sqrt(probability * (1 - probability) / DRAWS)
    # Within 3.3 standard deviations of a binomial: significance 1e-3.
    assert of(drawn).float().mean().item() == pytest.approx(probability, abs=3.3 * deviation)


@pytest.mark.parametrize(("column", "low", "high"), [(0, 0.6, 1.4), (1, 0.6, 1.4), (2, 0.6, 1.4), (3, -0.1, 0.1)])
def test_jitter_factors_are_uniform_in_their_published_ranges(
    drawn: ViewParameters, column: int, low: float, high: float
) -> None:
    factors = drawn.factors[~is_neutral(drawn), column].sort().values
    assert low <= factors[0] < factors[-1] <= high + 1e-6
    expected = (factors - low) / (high - low)
    empirical = (torch.arange(len(factors)) + 0.5) / len(factors)
    # One-sample Kolmogorov-Smirnov at significance 1e-3.
    assert (expected - empirical).abs().max() < 1.949 / math.sqrt(len(factors))


def test_sigmas_of_blurred_images_are_uniform_in_their_range(drawn: ViewParameters) -> None:
    sigma = drawn.sigma[drawn.sigma > 0].sort().values
    assert 0.5 <= sigma[0] < sigma[-1] <= 1.5
    empirical = (torch.arange(len(sigma)) + 0.5) / len(sigma)
    # One-sample Kolmogorov-Smirnov at significance 1e-3.
    assert (sigma - 0.5 - empirical).abs().max() < 1.949 / math.sqrt(len(sigma))


def test_an_image_gets_all_four_jitter_operations_or_none(drawn: ViewParameters) -> None:
    neutral = drawn.factors == torch.tensor([1.0, 1.0, 1.0, 0.0])
    # An exactly neutral draw of one factor has a probability of about 1e-7.
    assert (neutral.all(dim=1) == neutral.any(dim=1)).float().mean() > 0.999


def test_the_draws_of_an_image_are_uncorrelated(drawn: ViewParameters) -> None:
    # Neutral factors and a sigma of zero are correlated by definition.
    kept = ~is_neutral(drawn) & (drawn.sigma > 0)
    columns = torch.cat([part[kept].float().view(int(kept.sum()), -1) for part in parts(drawn)], dim=1)
    correlation = torch.corrcoef(columns.T)
    # By construction: the box's own numbers with each other, and the slots of a permutation.
    blocks = {"box": slice(0, 4), "order": slice(5, 9)}
    for block in blocks.values():
        correlation[block, block] = 0
    correlation.fill_diagonal_(0)
    # About 110 pairs, each within 4.5 standard deviations: 1e-3 for all by chance.
    assert correlation.shape == (16, 16)
    assert correlation.abs().max() < 4.5 / math.sqrt(int(kept.sum()))


def test_without_a_crop_the_whole_image_is_the_box() -> None:
    parameters = replace(CIFAR, crop_scale=None).sample(stream(0, "views"), 5, (24, 40))
    assert parameters.boxes.tolist() == [[0, 0, 24, 40]] * 5


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_probabilities_zero_and_one_are_certain(probability: float, expected: bool) -> None:
    certain = replace(
        ALL,
        flip=probability,
        grayscale=probability,
        jitter_probability=probability,
        blur_probability=probability,
        solarize_probability=probability,
    )
    parameters = certain.sample(stream(0, "views"), 500, (32, 32))
    happenings = (parameters.flip, parameters.grey, ~is_neutral(parameters), parameters.sigma > 0, parameters.solarized)
    for happened in happenings:
        assert (happened == expected).all()


def test_a_new_operation_leaves_the_other_draws_as_they_were() -> None:
    with_all, without = (views.sample(stream(0, "views"), 50, (32, 32)) for views in (ALL, CIFAR))
    for field in ("boxes", "flip", "order", "factors", "grey"):
        assert torch.equal(getattr(with_all, field), getattr(without, field))


def test_a_view_is_the_application_of_its_own_draw(images: Tensor) -> None:
    parameters = CIFAR.sample(stream(0, "views"), len(images), (32, 32))
    assert torch.equal(CIFAR(stream(0, "views"), images), CIFAR.apply(images, parameters))


def test_two_views_from_one_stream_differ(images: Tensor) -> None:
    draws = stream(0, "views")
    difference = CIFAR(draws, images) - CIFAR(draws, images)
    assert (difference.abs().flatten(1).amax(dim=1) > 0.01).all()


def test_applying_a_view_again_gives_the_same_bits(images: Tensor) -> None:
    parameters = CIFAR.sample(stream(0, "views"), len(images), (32, 32))
    before = [part.clone() for part in parts(parameters)]
    original = images.clone()
    assert torch.equal(CIFAR.apply(images, parameters), CIFAR.apply(images, parameters))
    assert torch.equal(images, original)
    assert all(torch.equal(part, kept) for part, kept in zip(parts(parameters), before, strict=True))


def test_parameters_of_some_images_can_be_taken_as_rows_or_as_a_slice() -> None:
    parameters = CIFAR.sample(stream(0, "views"), 10, (32, 32))
    for one, other in zip(parts(parameters[2:5]), parts(parameters[torch.tensor([2, 3, 4])]), strict=True):
        assert len(one) == 3
        assert torch.equal(one, other)


def test_the_chain_is_crop_flip_jitter_gray_blur_solarize_in_torchvisions_order(photograph: Photograph) -> None:
    image = photograph(0, 40, 40).float() / 255
    yes, no = torch.tensor([True]), torch.tensor([False])
    plain = ViewParameters(
        boxes=torch.tensor([[4.0, 9.0, 30.0, 25.0]]),
        flip=yes,
        order=torch.tensor([[3, 1, 0, 2]]),
        factors=torch.tensor([[1.3, 0.7, 1.2, 0.08]]),
        grey=no,
        sigma=torch.tensor([0.0]),
        solarized=no,
    )
    expected = TF.hflip(TF.resized_crop(image, 4, 9, 30, 25, [32, 32], antialias=True))
    expected = TF.adjust_hue(expected, 0.08)
    expected = TF.adjust_contrast(expected, 0.7)
    expected = TF.adjust_brightness(expected, 1.3)
    expected = TF.adjust_saturation(expected, 1.2)
    # Torchvision weighs red with 0.2989 instead of Pillow's 0.299: 1e-4 at a full blend.
    torch.testing.assert_close(ALL.apply(image[None], plain)[0], expected, atol=2e-4, rtol=0)
    grey = TF.rgb_to_grayscale(expected, 3)
    torch.testing.assert_close(ALL.apply(image[None], replace(plain, grey=yes))[0], grey, atol=3e-4, rtol=0)
    blurred = TF.gaussian_blur(grey, [5, 5], [1.2, 1.2])
    then_blurred = replace(plain, grey=yes, sigma=torch.tensor([1.2]))
    torch.testing.assert_close(ALL.apply(image[None], then_blurred)[0], blurred, atol=3e-4, rtol=0)
    view = ALL.apply(image[None], replace(then_blurred, solarized=yes))[0]
    away = (blurred - 0.5).abs() > 1e-3  # from the threshold, where a last bit inverts
    assert away.float().mean() > 0.9
    torch.testing.assert_close(view[away], TF.solarize(blurred, 0.5)[away], atol=3e-4, rtol=0)


def test_views_have_the_asked_size_and_stay_in_the_unit_range(photograph: Photograph) -> None:
    wide = torch.stack([photograph(seed, 30, 50) for seed in range(64)]).float() / 255
    view = replace(CIFAR, size=24)(stream(0, "views"), wide)
    assert view.shape == (64, 3, 24, 24)
    # Weights that sum to one only up to single precision.
    assert -1e-6 <= view.min() <= view.max() <= 1 + 1e-6


def colourful(*size: int) -> Tensor:
    """Return doubles in the middle of the range, channels apart: no clip, no tie, no edge of the hexagon."""
    base = torch.tensor([0.35, 0.5, 0.65], dtype=torch.float64)[:, None, None]
    return base + 0.05 * torch.rand(3, 3, *size, generator=stream(0, "shades"), dtype=torch.float64)


STILL = Views(4, None, (1.0, 1.0), 0.5, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0)
GENTLE = {"jitter": (0.2, 0.2, 0.2, 0.04), "jitter_probability": 1.0}
OPERATIONS = {
    "crop": {"crop_scale": (0.2, 1.0)},
    "enlarged crop": {"crop_scale": (0.2, 1.0), "size": 7},
    "padding": {"padding": 2, "size": 6},
    "shift": {"shift": 1.7, "size": 6},
    "jitter": GENTLE,
    "grayscale": {"grayscale": 1.0},
    "blur": {"blur_probability": 1.0, "blur_kernel": 5, "blur_sigma": (0.4, 2.0)},
    # No channel of a pixel is near the threshold.
    "solarization": {"solarize_probability": 1.0, "solarize_threshold": 0.45},
    "all": {"crop_scale": (0.2, 1.0), "grayscale": 0.3, "blur_probability": 0.7, "blur_kernel": 3, **GENTLE},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_chain_has_its_numerical_gradient(name: str) -> None:
    views = replace(STILL, **OPERATIONS[name])
    parameters = views.sample(stream(0, "views"), 3, (5, 6))
    images = colourful(5, 6).requires_grad_()
    # The fast mode checks one random direction instead of every pixel.
    assert torch.autograd.gradcheck(lambda x: views.apply(x, parameters), images, fast_mode=True)


def test_the_whole_chain_has_its_numerical_gradient_in_every_pixel() -> None:
    parameters = ViewParameters(
        boxes=torch.tensor([[0.0, 1.0, 3.0, 3.0], [1.0, 0.0, 2.0, 4.0], [0.0, 0.0, 3.0, 3.0]]),
        flip=torch.tensor([True, False, True]),
        order=torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]]),
        factors=torch.tensor([[1.1, 0.7, 1.2, 0.06], [0.8, 1.2, 0.8, -0.04], [1.0, 0.9, 1.1, 0.02]]).double(),
        grey=torch.tensor([False, False, True]),
        sigma=torch.tensor([0.0, 0.8, 1.3]),
        solarized=torch.tensor([False, False, True]),
    )
    views = replace(ALL, size=2, blur_kernel=3, solarize_threshold=0.1)
    assert torch.autograd.gradcheck(lambda x: views.apply(x, parameters), colourful(3, 4).requires_grad_())


@pytest.mark.parametrize("path", ["compiled", "torch", "eight bits"])
@pytest.mark.parametrize("level", [0.0, 1.0], ids=["black", "white"])
def test_pixels_that_are_exactly_black_or_white_lose_no_gradient(path: str, level: float) -> None:
    # A clip with gradient 0 on its bound would lose it, and so would one that takes a white of 1.0000001 for clipped,
    # as a shrunken crop of white often is: its many weights sum to one in floats.
    bound = 1 / 32 if level else -1 / 32  # exact in binary, so that image and noise meet at the bound
    delta = torch.full((24, 3, 50, 50), bound, requires_grad=True)
    poisoned = add_poison(torch.full((24, 3, 50, 50), level - bound), delta)
    assert (poisoned == level).all()
    # Brightness would move white away from the bound or over it.
    views = replace(ALL, size=24, jitter=(0.0, 0.6, 0.6, 0.2), jitter_probability=1.0, solarize_probability=0.0)
    parameters = views.sample(stream(0, "views"), 24, (50, 50))
    arithmetic = {"compiled": None, "torch": FLOAT, "eight bits": EIGHT_BIT}[path]
    view = views.apply(poisoned, parameters) if arithmetic is None else views._in_turn(poisoned, parameters, arithmetic)
    torch.testing.assert_close(view, torch.full_like(view, level), atol=1e-6, rtol=0)
    (grad,) = torch.autograd.grad(view.sum(), delta)
    # An image that brightens as a whole brightens its view as much: every weight of the chain sums to one.
    torch.testing.assert_close(grad.sum(dim=(1, 2, 3)), torch.full((24,), 3.0 * 24 * 24), atol=0, rtol=1e-4)
