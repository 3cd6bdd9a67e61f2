"""The whole chain: its draws, its replay, its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from engine.randomness import stream
from engine.views import ViewParameters, Views

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
DRAWS = 20_000


@pytest.fixture(scope="module")
def drawn() -> ViewParameters:
    return CIFAR.sample(stream(0, "views"), DRAWS, (32, 32))


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
        (lambda p: p.flip & p.grey & ~is_neutral(p), 0.08),
    ],
    ids=["flip", "grayscale", "jitter", "all three, independently"],
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


def test_an_image_gets_all_four_jitter_operations_or_none(drawn: ViewParameters) -> None:
    neutral = drawn.factors == torch.tensor([1.0, 1.0, 1.0, 0.0])
    # An exactly neutral draw of one factor has a probability of about 1e-7.
    assert (neutral.all(dim=1) == neutral.any(dim=1)).float().mean() > 0.999


def test_the_draws_of_an_image_are_uncorrelated(drawn: ViewParameters) -> None:
    jittered = ~is_neutral(drawn)
    columns = torch.cat([part[jittered].float().view(int(jittered.sum()), -1) for part in parts(drawn)], dim=1)
    correlation = torch.corrcoef(columns.T)
    # By construction: the box's own numbers with each other, and the slots of a permutation.
    blocks = {"box": slice(0, 4), "order": slice(5, 9)}
    for block in blocks.values():
        correlation[block, block] = 0
    correlation.fill_diagonal_(0)
    # About 60 pairs, each within 4.5 standard deviations.
    assert correlation.abs().max() < 4.5 / math.sqrt(int(jittered.sum()))


def test_without_a_crop_the_whole_image_is_the_box() -> None:
    parameters = replace(CIFAR, crop_scale=None).sample(stream(0, "views"), 5, (24, 40))
    assert parameters.boxes.tolist() == [[0, 0, 24, 40]] * 5


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_probabilities_zero_and_one_are_certain(probability: float, expected: bool) -> None:
    certain = replace(CIFAR, flip=probability, grayscale=probability, jitter_probability=probability)
    parameters = certain.sample(stream(0, "views"), 500, (32, 32))
    for happened in (parameters.flip, parameters.grey, ~is_neutral(parameters)):
        assert (happened == expected).all()


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


@pytest.mark.parametrize("split", [1, 3, 8])
def test_an_images_view_does_not_depend_on_its_batch(images: Tensor, split: int) -> None:
    parameters = CIFAR.sample(stream(0, "views"), len(images), (32, 32))
    whole = CIFAR.apply(images, parameters)
    rows = torch.arange(len(images)).split(split)
    pieces = torch.cat([CIFAR.apply(images[some], parameters[some]) for some in rows])
    # Not to the bit: matrix products of other batch sizes may sum in another order.
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)


def test_parameters_of_some_images_can_be_taken_as_rows_or_as_a_slice() -> None:
    parameters = CIFAR.sample(stream(0, "views"), 10, (32, 32))
    for one, other in zip(parts(parameters[2:5]), parts(parameters[torch.tensor([2, 3, 4])]), strict=True):
        assert len(one) == 3
        assert torch.equal(one, other)


def test_the_chain_is_crop_flip_jitter_gray_in_torchvisions_order(photograph: Photograph) -> None:
    image = photograph(0, 40, 40).float() / 255
    factors = torch.tensor([[1.3, 0.7, 1.2, 0.08]])
    order = torch.tensor([[3, 1, 0, 2]])
    box = torch.tensor([[4, 9, 30, 25]])
    true = torch.tensor([True])
    view = CIFAR.apply(image[None], ViewParameters(box, true, order, factors, ~true))
    expected = TF.hflip(TF.resized_crop(image, 4, 9, 30, 25, [32, 32], antialias=True))
    expected = TF.adjust_hue(expected, 0.08)
    expected = TF.adjust_contrast(expected, 0.7)
    expected = TF.adjust_brightness(expected, 1.3)
    expected = TF.adjust_saturation(expected, 1.2)
    # Torchvision weighs red with 0.2989 instead of Pillow's 0.299: 1e-4 at a full blend.
    torch.testing.assert_close(view[0], expected, atol=2e-4, rtol=0)
    grey = CIFAR.apply(image[None], ViewParameters(box, true, order, factors, true))
    torch.testing.assert_close(grey[0], TF.rgb_to_grayscale(expected, 3), atol=3e-4, rtol=0)


def test_views_have_the_asked_size_and_stay_in_the_unit_range(photograph: Photograph) -> None:
    wide = torch.stack([photograph(seed, 30, 50) for seed in range(64)]).float() / 255
    view = replace(CIFAR, size=24)(stream(0, "views"), wide)
    assert view.shape == (64, 3, 24, 24)
    # Weights that sum to one only up to single precision.
    assert -1e-6 <= view.min() <= view.max() <= 1 + 1e-6


def test_the_whole_chain_has_its_numerical_gradient() -> None:
    # Smooth images in the middle of the range, so that no pixel is clipped and no two channels are equal.
    generator = stream(0, "images")
    base = torch.tensor([0.35, 0.5, 0.65], dtype=torch.float64)[:, None, None]
    images = (base + 0.05 * torch.rand(3, 3, 3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    parameters = ViewParameters(
        boxes=torch.tensor([[0, 1, 3, 3], [1, 0, 2, 4], [0, 0, 3, 3]]),
        flip=torch.tensor([True, False, True]),
        order=torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]]),
        factors=torch.tensor([[1.1, 0.7, 1.2, 0.06], [0.8, 1.2, 0.8, -0.04], [1.0, 0.9, 1.1, 0.02]]).double(),
        grey=torch.tensor([False, False, True]),
    )
    views = replace(CIFAR, size=2)
    assert torch.autograd.gradcheck(lambda x: views.apply(x, parameters), images)
