"""Images of many sizes in one batch: each as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.randomness import stream
from engine.views import Ragged, ViewParameters, Views, pack
from engine.views.arithmetic import EIGHT_BIT, FLOAT, Arithmetic
from engine.views.images import sizes_of

VIEWS = Views(
    size=24,
    crop_scale=(0.2, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale=0.2,
    blur_probability=0.5,
    blur_kernel=5,
    solarize_probability=0.2,
)
# From a single pixel to long strips: as dense matrices they would all be as long as the longest.
SIZES = [(20, 300), (300, 20), (32, 32), (7, 9), (1, 1), (1, 40), (24, 24), (75, 50)]
CHANGES = {
    "crops": {},
    "padding": {"crop_scale": None, "padding": 3},
    "shift": {"crop_scale": None, "shift": 1.6},
    "whole": {"crop_scale": None},
}


def images_of(sizes: list[tuple[int, int]]) -> list[Tensor]:
    generator = stream(0, "images")
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def drawn(views: Views, images: list[Tensor]) -> ViewParameters:
    return views.sample(stream(0, "views"), len(images), sizes_of(pack(images)))


def test_packed_images_lie_one_behind_another() -> None:
    images = images_of(SIZES)
    packed = pack(images)
    assert len(packed) == len(SIZES)
    assert packed.sizes.tolist() == [list(size) for size in SIZES]
    for image, offset in zip(images, packed.offsets.tolist(), strict=True):
        assert torch.equal(packed.pixels[offset : offset + image.numel()], image.flatten())
    assert len(packed.pixels) == sum(3 * height * width for height, width in SIZES)


def test_boxes_are_drawn_inside_each_images_own_size() -> None:
    sizes = torch.tensor(SIZES).repeat(200, 1)
    boxes = VIEWS.sample(stream(0, "views"), len(sizes), sizes).boxes
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    # The strips never fit a ratio between 3 / 4 and 4 / 3 of a fifth of their area: the central box.
    strips = boxes[:: len(SIZES)]
    assert strips[:, 2].unique().tolist() == [20]
    assert strips[:, 3].unique().tolist() == [27]
    assert len(boxes[2 :: len(SIZES)].unique(dim=0)) > 100


def test_equal_sizes_draw_what_a_dense_batch_draws() -> None:
    dense = VIEWS.sample(stream(0, "views"), 9, (30, 40))
    ragged = VIEWS.sample(stream(0, "views"), 9, torch.tensor([[30, 40]] * 9))
    assert torch.equal(dense.boxes, ragged.boxes)
    assert torch.equal(dense.factors, ragged.factors)


def value_and_gradient(
    views: Views, images: Tensor | Ragged, parameters: ViewParameters, arithmetic: Arithmetic | None, upstream: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the views and the flat gradient of the pixels; the compiled path where no arithmetic is named."""
    leaf = (images.pixels if isinstance(images, Ragged) else images).clone().requires_grad_()
    given = Ragged(leaf, images.sizes) if isinstance(images, Ragged) else leaf
    view = views.apply(given, parameters) if arithmetic is None else views._in_turn(given, parameters, arithmetic)
    return view.detach(), torch.autograd.grad(view, leaf, upstream.to(leaf))[0].flatten()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("path", ["compiled", "torch", "eight bits"])
def test_images_of_many_sizes_are_treated_as_each_one_alone(path: str, change: str) -> None:
    views = replace(VIEWS, **CHANGES[change])
    images, arithmetic = images_of(SIZES), {"compiled": None, "torch": FLOAT, "eight bits": EIGHT_BIT}[path]
    if path == "torch":
        images = [image.double() for image in images]
    parameters = drawn(views, images)
    upstream = torch.randn(len(images), 3, 24, 24, generator=stream(0, "upstream"))
    together, gradient = value_and_gradient(views, pack(images), parameters, arithmetic, upstream)
    rows = [slice(row, row + 1) for row in range(len(images))]
    alone = [
        value_and_gradient(views, image[None], parameters[row], arithmetic, upstream[row])
        for image, row in zip(images, rows, strict=True)
    ]
    # The compiled path blurs with torch's matrix products, whose last bits depend on the batch.
    tolerance = {"compiled": 1e-6, "torch": 1e-12, "eight bits": 0.0}[path]
    torch.testing.assert_close(together, torch.cat([view for view, _ in alone]), atol=tolerance, rtol=0)
    # Sums of up to 24 x 24 weights of size 1; in eight bits of a float's precision, backwards.
    slack = {"compiled": 2e-4, "torch": 1e-11, "eight bits": 2e-4}[path]
    torch.testing.assert_close(gradient, torch.cat([each for _, each in alone]), atol=slack, rtol=0)
    assert gradient.abs().max() > 1


def test_compiled_views_without_a_blur_have_the_bits_of_each_image_alone() -> None:
    views = replace(VIEWS, blur_probability=0.0)
    images = images_of(SIZES)
    parameters = drawn(views, images)
    together = views.apply(pack(images), parameters)
    for row, image in enumerate(images):
        assert torch.equal(views.apply(image[None], parameters[row : row + 1])[0], together[row])


def test_views_of_a_ragged_batch_are_drawn_and_applied() -> None:
    images = images_of(SIZES)
    parameters = drawn(VIEWS, images)
    assert torch.equal(VIEWS(stream(0, "views"), pack(images)), VIEWS.apply(pack(images), parameters))


def test_ragged_gradients_are_numerical_ones() -> None:
    # Colours in the middle of the range and apart from each other, so that no pixel is at a kink.
    base = torch.tensor([0.35, 0.5, 0.65], dtype=torch.float64)[:, None, None]
    generator = stream(0, "shades")
    images = [base + 0.05 * torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in [(5, 3), (2, 6)]]
    views = replace(VIEWS, size=3, blur_probability=0.0, solarize_probability=0.0, jitter=(0.2, 0.2, 0.2, 0.04))
    for change in CHANGES.values():
        changed = replace(views, **change)
        packed, parameters = pack(images), drawn(changed, images)

        def apply(pixels: Tensor, of=changed, sizes=packed.sizes, drawn=parameters) -> Tensor:
            return of.apply(Ragged(pixels, sizes), drawn)

        # The fast mode checks one random direction instead of every pixel.
        assert torch.autograd.gradcheck(apply, packed.pixels.clone().requires_grad_(), fast_mode=True)
