"""The chain against Pillow: in eight bits to the bit, in real numbers within Pillow's rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from engine.randomness import stream
from engine.views import ViewParameters, Views, color, eight_bit, geometry, pack
from engine.views.blur import blur
from engine.views.color import BRIGHTNESS, CONTRAST, HUE, SATURATION

Photograph = Callable[[int, int, int], Tensor]
Operation = Callable[[Tensor, Tensor], Tensor]

ADJUST: dict[int, Callable[[Image, float], Image]] = {
    BRIGHTNESS: TF.adjust_brightness,
    CONTRAST: TF.adjust_contrast,
    SATURATION: TF.adjust_saturation,
    HUE: TF.adjust_hue,
}
BLENDS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}
# Everything on, over ranges that reach black, white, grey and every hue.
VIEWS = Views(
    size=32,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.8, 0.8, 0.8, 0.5),
    jitter_probability=0.8,
    grayscale=0.2,
    solarize_probability=0.2,
    eight_bit=True,
)


def with_pillow(change: Callable[..., Image], images_u8: Tensor, *arguments: Any) -> Tensor:
    """Return what Pillow makes of each image, with its own arguments, in grey levels."""
    each = zip(images_u8, *arguments, strict=True)
    return torch.stack([TF.pil_to_tensor(change(TF.to_pil_image(image), *own)) for image, *own in each]).float()


def as_floats(images_u8: Tensor) -> Tensor:
    return images_u8.float() / 255


def levels(views: Tensor) -> Tensor:
    """Return eight-bit views in grey levels, after checking that they are whole ones."""
    exact = 255 * views
    assert (exact - exact.round()).abs().max() < 1e-4  # a float's last bits
    return exact.round()


def over_the_range(images: Tensor, low: float, high: float) -> Tensor:
    """Return a factor an image, both ends of a range among them."""
    return torch.linspace(low, high, len(images))


def blending(arithmetic: Any, operation: int) -> Operation:
    return lambda images, factors: arithmetic.blend(images, torch.full((len(images),), operation), factors)


@pytest.mark.parametrize("name", BLENDS)
def test_blends_in_eight_bits_are_pillows_to_the_bit(pictures: Tensor, name: str) -> None:
    factors = over_the_range(pictures, 0, 2)
    views = blending(eight_bit, BLENDS[name])(as_floats(pictures), factors)
    assert torch.equal(levels(views), with_pillow(ADJUST[BLENDS[name]], pictures, factors.tolist()))


@pytest.mark.parametrize("name", BLENDS)
def test_blends_in_real_numbers_are_pillows_up_to_its_rounding(pictures: Tensor, name: str) -> None:
    factors = over_the_range(pictures, 0, 2)
    views = blending(color, BLENDS[name])(as_floats(pictures), factors)
    difference = 255 * views - with_pillow(ADJUST[BLENDS[name]], pictures, factors.tolist())
    # Pillow cuts fractions off: ours is above, by less than a level. It also rounds its grey by half a level, and the
    # mean of that by another half (a blue sky is all rounded one way), and takes 1 - factor of it. The slack is for
    # floats and for the 16-bit weights of its luma.
    roundings = {"brightness": 0, "contrast": 1, "saturation": 0.5}[name]
    grey = roundings * (1 - factors).abs()[:, None, None, None]
    assert (difference <= 1 + grey + 0.01).all()
    assert (difference >= -grey - 0.01).all()
    assert difference.abs().max() < 2


def test_hue_in_eight_bits_is_pillows_to_the_bit(pictures: Tensor) -> None:
    shifts = over_the_range(pictures, -0.5, 0.5)
    views = eight_bit.shift_hue(as_floats(pictures), shifts)
    assert torch.equal(levels(views), with_pillow(TF.adjust_hue, pictures, shifts.tolist()))


def test_hue_in_eight_bits_is_pillows_for_colours_of_the_whole_cube() -> None:
    # Every corner, edge and face of the cube, and a sample of its inside: ties of two and three channels included.
    grid = torch.tensor([0, 1, 2, 63, 64, 127, 128, 129, 200, 253, 254, 255], dtype=torch.uint8)
    special = torch.cartesian_prod(grid, grid, grid)
    sample = torch.randint(0, 256, (65_536 - len(special), 3), generator=stream(0, "colours"), dtype=torch.uint8)
    image = torch.cat([special, sample]).T.view(1, 3, 256, 256)
    for shift in (-0.5, -0.123, 0.001, 0.3, 0.5):
        views = eight_bit.shift_hue(as_floats(image), torch.tensor([shift]))
        # A float holds none of these shifts exactly; the steps of 1/255 are the same.
        assert torch.equal(levels(views), with_pillow(TF.adjust_hue, image, [shift]))


def test_hue_in_real_numbers_has_the_measured_distance_from_pillow(pictures: Tensor) -> None:
    shifts = over_the_range(pictures, -0.5, 0.5)
    views = color.shift_hue(as_floats(pictures), shifts)
    difference = 255 * views - with_pillow(TF.adjust_hue, pictures, shifts.tolist())
    # Pillow cuts hue and saturation to eight bits and torchvision the shift: up to three hue steps of 6/255 of the
    # chroma each, one level for the saturation and half a level of rounding. Measured over the three origins:
    # mean 0.3 to 0.5, 99 % below 5.
    chroma = (pictures.amax(dim=1) - pictures.amin(dim=1)).float()[:, None]
    assert (difference.abs() <= chroma * 3 * 6 / 255 + 2).all()
    assert difference.abs().mean() < 0.7
    assert difference.mean().abs() < 0.2
    assert difference.abs().flatten()[::7].quantile(0.99) < 6


def test_grayscale_is_pillows(pictures: Tensor) -> None:
    pillow = with_pillow(lambda image: TF.to_grayscale(image, 3), pictures)
    assert torch.equal(levels(eight_bit.to_grey(as_floats(pictures))), pillow)
    # Half a level of rounding, and Pillow's 16-bit weights.
    assert (255 * color.to_grey(as_floats(pictures)) - pillow).abs().max() <= 0.5 + 5e-3


def test_solarization_is_pillows_at_its_default_threshold(pictures: Tensor) -> None:
    # The same operation serves both arithmetics: it rounds nothing.
    views = color.solarize(as_floats(pictures), 128 / 255)
    assert torch.equal(levels(views), with_pillow(lambda image: TF.solarize(image, 128), pictures))


def crop(image: Image, box: list[int], flip: bool, size: int) -> Image:
    """Crop and resize with Pillow, the horizontal pass first."""
    top, left, height, width = box
    image = TF.crop(image, top, left, height, width)
    # In one call Pillow up to 12 takes the passes in this order; from 13 on only where that is cheaper.
    image = TF.resize(TF.resize(image, [height, size]), [size, size])
    return TF.hflip(image) if flip else image


def one_call_crop(image: Image, box: list[int], flip: bool, size: int) -> Image:
    image = TF.resized_crop(image, *box, [size, size])
    return TF.hflip(image) if flip else image


def crops_only(size: int, *, eight_bit: bool) -> Views:
    return replace(
        VIEWS, size=size, jitter_probability=0.0, grayscale=0.0, solarize_probability=0.0, eight_bit=eight_bit
    )


SHAPES = [
    pytest.param(32, 32, 32, id="enlarging crops of 32 x 32"),
    pytest.param(16, 16, 40, id="16 to 40"),
    pytest.param(64, 64, 32, id="64 to 32"),
    pytest.param(40, 56, 24, id="40 x 56 to 24"),
    pytest.param(224, 224, 32, id="224 to 32"),
]


def crops(images_u8: Tensor, size: int) -> tuple[list[list[int]], list[bool], Tensor, Tensor]:
    """Return boxes, flips, and our crops in grey levels: in eight bits and in real numbers."""
    in_bits, real = (crops_only(size, eight_bit=way) for way in (True, False))
    parameters = in_bits.sample(stream(0, "crops"), len(images_u8), tuple(images_u8.shape[2:]))
    ours = [255 * views.apply(as_floats(images_u8), parameters) for views in (in_bits, real)]
    return parameters.boxes.long().tolist(), parameters.flip.tolist(), *ours


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_crops_are_pillows(photograph: Photograph, height: int, width: int, size: int) -> None:
    images = torch.stack([photograph(seed, height, width) for seed in range(24)])
    boxes, flips, in_bits, real = crops(images, size)
    pillow = with_pillow(crop, images, boxes, flips, [size] * 24)
    assert torch.equal(in_bits.round(), pillow)
    # A level: half of one a pass, of which the second cannot enlarge the first.
    assert (real - pillow).abs().max() <= 1 + 1e-3
    one_call = with_pillow(one_call_crop, images, boxes, flips, [size] * 24)
    # Another order of passes rounds in between at other places.
    assert (in_bits - one_call).abs().max() <= 1 + 1e-3
    assert (in_bits.round() == one_call).float().mean() > 0.9


def test_crops_of_photographs_are_pillows(camera: list[Tensor]) -> None:
    images = torch.stack([image[:, :300, :400] for image in camera] * 3)
    boxes, flips, in_bits, real = crops(images, 96)
    pillow = with_pillow(crop, images, boxes, flips, [96] * 6)
    assert torch.equal(in_bits.round(), pillow)
    assert (real - pillow).abs().max() <= 1 + 1e-3


def test_small_pictures_of_every_origin_are_cropped_as_by_pillow_in_one_call(pictures: Tensor) -> None:
    boxes, flips, in_bits, real = crops(pictures, 32)
    # Enlarging takes the horizontal pass first in every Pillow.
    pillow = with_pillow(one_call_crop, pictures, boxes, flips, [32] * len(pictures))
    assert torch.equal(in_bits.round(), pillow)
    assert (real - pillow).abs().max() <= 1 + 1e-3


def pillow_view(image: Image, parameters: ViewParameters, row: int, views: Views) -> Image:
    """Compute one view with torchvision on Pillow."""
    image = crop(image, parameters.boxes[row].long().tolist(), bool(parameters.flip[row]), views.size)
    for operation in parameters.order[row].tolist():
        factor = parameters.factors[row, operation].item()
        if factor != (0 if operation == HUE else 1):  # not jittered; Pillow's HSV does not come back exactly
            image = ADJUST[operation](image, factor)
    if parameters.grey[row]:
        image = TF.to_grayscale(image, 3)
    if parameters.sigma[row] > 0:
        image = TF.gaussian_blur(image, [views.blur_kernel] * 2, [parameters.sigma[row].item()] * 2)
    return TF.solarize(image, 128) if parameters.solarized[row] else image


def both(views: Views, images_u8: Tensor) -> tuple[Tensor, Tensor]:
    """Return views of images in grey levels, ours and Pillow's."""
    parameters = views.sample(stream(0, "chain"), len(images_u8), tuple(images_u8.shape[2:]))
    rows = range(len(images_u8))
    pillow = with_pillow(lambda image, row: pillow_view(image, parameters, row, views), images_u8, rows)
    return 255 * views.apply(as_floats(images_u8), parameters), pillow


def test_the_whole_chain_in_eight_bits_is_torchvisions_on_pillow_to_the_bit(pictures: Tensor) -> None:
    ours, pillow = both(VIEWS, pictures)
    assert torch.equal(levels(ours / 255), pillow)


@pytest.mark.parametrize(("height", "width", "size"), [(64, 48, 32), (90, 120, 48)])
def test_the_whole_chain_with_a_blur_is_torchvisions_on_pillow(
    photograph: Photograph, height: int, width: int, size: int
) -> None:
    images = torch.stack([photograph(seed, height, width) for seed in range(32)])
    ours, pillow = both(replace(VIEWS, size=size, blur_probability=0.5, blur_kernel=9), images)
    difference = (ours - pillow).abs()
    # Torchvision blurs Pillow's images in floats, whose last bits decide about halves: a few pixels in a million.
    assert difference.max() <= 1 + 1e-3
    assert (difference > 0.5).float().mean() < 1e-4


def test_the_whole_chain_in_real_numbers_has_the_measured_distance_from_pillow(pictures: Tensor) -> None:
    ours, pillow = both(
        replace(VIEWS, eight_bit=False, jitter=(0.4, 0.4, 0.4, 0.1), solarize_probability=0.0), pictures
    )
    difference = ours - pillow
    # The paper's CIFAR views. Four operations cut a fraction off, half a level each, in four images out of five.
    assert 0 < difference.mean() < 1.5
    assert difference.abs().mean() < 2
    assert difference.abs().flatten()[::7].quantile(0.99) < 7


def test_padding_in_eight_bits_moves_whole_levels(pictures: Tensor) -> None:
    views = replace(crops_only(32, eight_bit=True), crop_scale=None, padding=4)
    parameters = views.sample(stream(0, "padding"), len(pictures), (32, 32))
    real = replace(views, eight_bit=False).apply(as_floats(pictures), parameters)
    assert torch.equal(views.apply(as_floats(pictures), parameters), real)


def test_eight_bits_do_not_depend_on_the_batch_the_layout_or_the_precision(pictures: Tensor) -> None:
    images = as_floats(pictures)
    parameters = VIEWS.sample(stream(0, "chain"), len(images), (32, 32))
    views = VIEWS.apply(images, parameters)
    rows = torch.arange(len(images)).split([1, 2, 20, len(images) - 23])
    assert torch.equal(torch.cat([VIEWS.apply(images[some], parameters[some]) for some in rows]), views)
    assert torch.equal(VIEWS.apply(pack(list(images)), parameters), views)
    doubles = VIEWS.apply(pictures.double() / 255, parameters)
    assert doubles.dtype == torch.float64
    assert torch.equal(levels(doubles), levels(views))


def test_eight_bits_start_from_the_nearest_levels(pictures: Tensor) -> None:
    # A poisoned image of a search is not on whole levels; what is released will be.
    off = as_floats(pictures) + 0.4 / 255 * (torch.rand(pictures.shape, generator=stream(0, "off")) - 0.5)
    parameters = VIEWS.sample(stream(0, "chain"), len(pictures), (32, 32))
    assert torch.equal(VIEWS.apply(off, parameters), VIEWS.apply(as_floats(pictures), parameters))


def gradient(operation: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    views = operation(leaf)
    weights = torch.randn(views.shape, generator=stream(0, "weights")).to(views)
    return torch.autograd.grad((views * weights).sum(), leaf)[0]


@pytest.mark.parametrize("name", [*BLENDS, "hue", "grayscale", "blur"])
def test_the_gradient_of_an_operation_is_that_of_its_real_numbers(pictures: Tensor, name: str) -> None:
    images = as_floats(pictures[::4])
    factors = over_the_range(images, -0.4, 0.4) if name == "hue" else over_the_range(images, 0.2, 1.8)
    quantised: dict[str, Operation] = {
        "hue": eight_bit.shift_hue,
        "grayscale": lambda images, _: eight_bit.to_grey(images),
        "blur": lambda images, sigma: eight_bit.round_levels(blur(images, sigma, 5)),
    }
    real: dict[str, Operation] = {
        "hue": color.shift_hue,
        "grayscale": lambda images, _: color.to_grey(images),
        "blur": lambda images, sigma: blur(images, sigma, 5),
    }
    for operations, arithmetic in ((quantised, eight_bit), (real, color)):
        operations |= {each: blending(arithmetic, code) for each, code in BLENDS.items()}
    straight = gradient(lambda images: quantised[name](images, factors), images)
    assert straight.any()
    assert torch.equal(straight, gradient(lambda images: real[name](images, factors), images))


@pytest.mark.parametrize("size", [20, 48], ids=["shrinking", "enlarging"])
def test_the_gradient_of_a_crop_is_that_of_its_real_numbers(pictures: Tensor, size: int) -> None:
    images = as_floats(pictures[::4])
    parameters = crops_only(size, eight_bit=True).sample(stream(0, "crops"), len(images), (32, 32))
    straight, real = (
        gradient(lambda x, way=way: crops_only(size, eight_bit=way).apply(x, parameters), images)
        for way in (True, False)
    )
    assert straight.any()
    # Weights of 22 bits, and sums in single precision.
    torch.testing.assert_close(straight, real, atol=2e-5, rtol=0)


def test_rounded_weights_are_pillows_fixed_point_numbers() -> None:
    weights = geometry.resize_matrices(
        torch.tensor([0.0]).double(), torch.tensor([7.0]).double(), source=7, target=3, margin=0
    )
    rounded = eight_bit.round_weights(weights)
    assert torch.equal((rounded * 2**22).frac(), torch.zeros_like(rounded))
    assert 0 < (rounded - weights).abs().max() <= 2.0**-23
