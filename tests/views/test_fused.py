"""The compiled views: equal to torch's, the same bits whatever the batch and the threads, safe without a compiler."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import native
from engine.randomness import stream
from engine.views import ViewParameters, Views, fused
from engine.views.arithmetic import FLOAT

Photograph = Callable[[int, int, int], Tensor]

VIEWS = Views(
    size=32,
    crop_scale=(0.2, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=1.0,
    grayscale=0.2,
)
ORDERS = torch.tensor(list(itertools.permutations(range(4))))
COMPILER = native.compiler_command()


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Without this the tests below would compare torch with itself."""
    if not COMPILER:
        pytest.skip("there is no C compiler here")
    assert fused.library() is not None


def random_images(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=stream(0, "images"))


def in_every_order(views: Views, batch: int, height: int, width: int) -> ViewParameters:
    drawn = views.sample(stream(0, "views"), batch, (height, width))
    return replace(drawn, order=ORDERS[torch.arange(batch) % 24])


def value_and_gradient(compute: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    out = compute(leaf)
    weights = torch.randn(out.shape, generator=stream(0, "weights")).to(out)
    return out.detach(), torch.autograd.grad((out * weights).sum(), leaf)[0]


def both_paths(views: Views, images: Tensor, parameters: ViewParameters) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return the view and the gradient: compiled, and by torch in double precision."""
    compiled = value_and_gradient(lambda x: views.apply(x, parameters), images)
    exact = value_and_gradient(lambda x: views._in_turn(x, parameters, FLOAT), images.double())
    return compiled, tuple(each.float() for each in exact)


def assert_equal_up_to_kinks(gradient: Tensor, exact: Tensor) -> None:
    # A pixel at a kink of the hue or of a clip has several gradients, and rounding picks one: less than one value in
    # a thousand. Elsewhere single precision is good to a few digits more than these.
    size = exact.square().mean().sqrt()
    assert size > 1e-3
    assert ((gradient - exact).abs() > 1e-4 * size).float().mean() < 1e-3


SHAPES = [
    pytest.param(48, 32, 32, 32, id="32 to 32"),
    pytest.param(48, 16, 16, 16, id="16 to 16"),
    pytest.param(48, 40, 30, 24, id="40 x 30 to 24"),
    pytest.param(24, 64, 64, 32, id="64 to 32"),
    pytest.param(24, 9, 13, 17, id="enlarging 9 x 13 to 17"),
    pytest.param(3, 224, 224, 224, id="224 to 224"),
    pytest.param(24, 11, 12, 1, id="to a single pixel"),
]


@pytest.mark.parametrize(("batch", "height", "width", "size"), SHAPES)
def test_compiled_views_and_gradients_are_torchs_in_every_order_of_the_jitter(
    batch: int, height: int, width: int, size: int
) -> None:
    views = replace(VIEWS, size=size)
    parameters = in_every_order(views, batch, height, width)
    (view, gradient), (exact, exact_gradient) = both_paths(views, random_images(batch, height, width), parameters)
    assert view.shape == (batch, 3, size, size)
    torch.testing.assert_close(view, exact, atol=2e-6, rtol=0)
    assert_equal_up_to_kinks(gradient, exact_gradient)


@pytest.mark.parametrize("change", [{"padding": 5}, {"shift": 2.7}, {}], ids=["padding", "shift", "the whole image"])
@pytest.mark.parametrize("size", [12, 20, 31])
def test_compiled_boxes_may_leave_the_image_and_fall_between_pixels(change: dict[str, float], size: int) -> None:
    views = replace(VIEWS, crop_scale=None, size=size, **change)
    parameters = in_every_order(views, 48, 20, 17)
    (view, gradient), (exact, exact_gradient) = both_paths(views, random_images(48, 20, 17), parameters)
    torch.testing.assert_close(view, exact, atol=2e-6, rtol=0)
    assert_equal_up_to_kinks(gradient, exact_gradient)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(1, 40),
    padding=st.none() | st.integers(0, 8),
    seed=st.integers(0, 2**20),
)
def test_compiled_views_of_any_shape_are_torchs(
    shape: tuple[int, int], size: int, padding: int | None, seed: int
) -> None:
    views = replace(VIEWS, size=size, crop_scale=(0.01, 1.0) if padding is None else None, padding=padding or 0)
    images = torch.rand(4, 3, *shape, generator=stream(seed, "images"))
    parameters = views.sample(stream(seed, "views"), 4, shape)
    exact = views._in_turn(images.double(), parameters, FLOAT).float()
    torch.testing.assert_close(views.apply(images, parameters), exact, atol=2e-6, rtol=0)


def special_images() -> Tensor:
    """Return grey, tied, black, white and saturated images: where hue and clips have their kinks."""
    shades = random_images(8, 16, 16)
    grey = shades[:, :1].expand(-1, 3, -1, -1)
    ties = torch.stack([shades[:, 0], shades[:, 0], shades[:, 1]], dim=1)
    black_and_white = (shades[:, :1] > 0.5).float().expand(-1, 3, -1, -1)
    saturated = (shades > 0.5).float()
    flat = torch.tensor([0.0, 1.0, 0.5])[:, None, None, None].expand(3, 3, 16, 16)
    return torch.cat([grey, ties, ties.roll(1, dims=1), ties.roll(2, dims=1), black_and_white, saturated, flat])


def test_compiled_views_of_tied_black_and_white_pixels_are_torchs() -> None:
    images = special_images()
    views = replace(VIEWS, size=16, jitter=(0.8, 0.8, 0.8, 0.5))
    parameters = in_every_order(views, len(images), 16, 16)
    (view, gradient), (exact, exact_gradient) = both_paths(views, images, parameters)
    torch.testing.assert_close(view, exact, atol=2e-6, rtol=0)
    assert gradient.isfinite().all()
    # Which of two equal channels is the largest may be decided by rounding. The gradient of a common change of the
    # channels may not: hue, grey and blends move with it.
    assert_equal_up_to_kinks(gradient.sum(dim=1), exact_gradient.sum(dim=1))


def test_compiled_ties_are_broken_as_torch_breaks_them() -> None:
    # Without a crop or a blend before it the hue meets exactly equal channels in both paths.
    images = special_images()
    views = replace(VIEWS, size=16, crop_scale=None, jitter=(0.0, 0.0, 0.0, 0.3))
    parameters = in_every_order(views, len(images), 16, 16)
    (_, gradient), (_, exact_gradient) = both_paths(views, images, parameters)
    torch.testing.assert_close(gradient, exact_gradient, atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", ["compiled", "torch"])
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 21), max_size=5), side=st.integers(5, 24), size=st.integers(3, 24))
def test_an_images_view_does_not_depend_on_its_batch(path: str, cuts: list[int], side: int, size: int) -> None:
    views = replace(VIEWS, size=size)
    parameters = views.sample(stream(0, "views"), 21, (side, side + 2))
    images = random_images(21, side, side + 2)
    upstream = torch.randn(21, 3, size, size, generator=stream(0, "upstream"))
    if path == "torch":
        images, upstream = images.double(), upstream.double()

    def value_and_gradient_of(rows: slice) -> tuple[Tensor, Tensor]:
        leaf = images[rows].clone().requires_grad_()
        of_rows = leaf, parameters[rows]
        view = views.apply(*of_rows) if path == "compiled" else views._in_turn(*of_rows, FLOAT)
        return view.detach(), torch.autograd.grad(view, leaf, upstream[rows])[0]

    whole = value_and_gradient_of(slice(0, 21))
    pieces = [value_and_gradient_of(slice(*bounds)) for bounds in itertools.pairwise([0, *sorted(cuts), 21])]
    for part, expected in zip(zip(*pieces, strict=True), whole, strict=True):
        if path == "compiled":
            assert torch.equal(torch.cat(part), expected)
        else:  # torch's matrix products sum in another order where a batch starts elsewhere in memory
            torch.testing.assert_close(torch.cat(part), expected, atol=1e-12, rtol=0)


def test_replays_layouts_and_threads_give_the_same_bits(photograph: Photograph) -> None:
    images = torch.stack([photograph(seed, 29, 31) for seed in range(13)]).float() / 255
    parameters = VIEWS.sample(stream(0, "views"), 13, (29, 31))

    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_gradient(lambda leaf: VIEWS.apply(leaf, parameters), x)

    expected = compute(images)
    found = [compute(images), compute(images.contiguous(memory_format=torch.channels_last))]
    try:
        for threads in (2, 3, 20):
            torch.set_num_threads(threads)
            found.append(compute(images))
    finally:
        torch.set_num_threads(1)
    for view, gradient in found:
        assert torch.equal(view, expected[0])
        assert torch.equal(gradient, expected[1])


def test_the_gradient_may_come_in_any_layout() -> None:
    images = random_images(5, 12, 12).requires_grad_()
    parameters = VIEWS.sample(stream(0, "views"), 5, (12, 12))
    view = VIEWS.apply(images, parameters)
    upstream = torch.randn(view.shape, generator=stream(0, "upstream"))
    layouts = [upstream.contiguous(), upstream.contiguous(memory_format=torch.channels_last)]
    kept = [layout.clone() for layout in layouts]
    one, other = (torch.autograd.grad(view, images, layout, retain_graph=True)[0] for layout in layouts)
    assert torch.equal(one, other)
    assert all(torch.equal(layout, copy) for layout, copy in zip(layouts, kept, strict=True))
    # A gradient of a sum is one number, expanded.
    (expanded,) = torch.autograd.grad(view.sum(), images)
    assert torch.equal(expanded, torch.autograd.grad(VIEWS.apply(images, parameters), images, torch.ones_like(view))[0])


def test_an_empty_batch_has_empty_views() -> None:
    parameters = VIEWS.sample(stream(0, "views"), 0, (12, 12))
    images = torch.empty(0, 3, 12, 12, requires_grad=True)
    view = VIEWS.apply(images, parameters)
    assert view.shape == (0, 3, 32, 32)
    assert torch.autograd.grad(view.sum(), images)[0].shape == images.shape


def test_what_the_compiled_code_would_read_beyond_the_images_is_refused() -> None:
    parameters = VIEWS.sample(stream(0, "views"), 6, (12, 12))
    with pytest.raises(ValueError, match="parameters of 6 images for 5"):
        VIEWS.apply(random_images(5, 12, 12), parameters)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \[6, 1, 12, 12\]"):
        VIEWS.apply(random_images(6, 12, 12)[:, :1], parameters)


def some_views() -> Tensor:
    images = random_images(8, 14, 14)
    return VIEWS.apply(images, VIEWS.sample(stream(0, "views"), 8, (14, 14)))


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """Return some views by the code that is loaded."""
    return some_views()


def test_without_a_compiler_the_views_are_the_same_and_it_is_said_once(
    expected: Tensor, uncached: pytest.MonkeyPatch
) -> None:
    uncached.setattr(shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match="no C compiler") as said:
        views = some_views()
    assert len(said) == 1
    torch.testing.assert_close(views, expected, atol=1e-5, rtol=0)
    some_views()  # a second warning would be an error


# Images of many sizes, boxes that leave them and fall between pixels, every order; each array exactly as long as it
# must be, so that one step beyond it is seen.
EXERCISE = """
#include <stdio.h>
#include "fused.c"

static uint32_t state = 1;
static float uniform(float low, float high) {
    state = state * 1664525u + 1013904223u;
    return low + (high - low) * (float)(state >> 8) / (float)(1 << 24);
}
static void *room(size_t count, size_t size) { return malloc(count ? count * size : 1); }

static double exercise(int64_t out, int64_t batch, int64_t jitter) {
    int64_t *offsets = room(batch, 8), *sizes = room(2 * batch, 8), *order = room(4 * batch, 8), pixels = 0;
    float *boxes = room(4 * batch, 4), *factors = room(4 * batch, 4);
    uint8_t *flip = room(batch, 1), *grey = room(batch, 1);
    for (int64_t b = 0; b < batch; b++) {
        int64_t h = (int64_t)uniform(1, 40), w = (int64_t)uniform(1, 40);
        float box[4] = {0, 0, (float)h, (float)w};
        if (b % 3 == 0) box[0] = uniform(-6, 6), box[1] = uniform(-6, 6);
        if (b % 3 == 1) box[2] = floorf(uniform(1, h + 1)), box[3] = floorf(uniform(1, w + 1));
        if (b % 3 == 1) box[0] = floorf(uniform(0, h - box[2] + 1)), box[1] = floorf(uniform(0, w - box[3] + 1));
        memcpy(boxes + 4 * b, box, sizeof box);
        sizes[2 * b] = h, sizes[2 * b + 1] = w, offsets[b] = pixels, pixels += 3 * h * w;
        for (int64_t slot = 0; slot < 4; slot++) order[4 * b + slot] = (slot * (b % 2 ? 1 : 3) + b) % 4;
        for (int64_t k = 0; k < 4; k++) factors[4 * b + k] = k < 3 ? uniform(0, 2) : uniform(-0.5, 0.5);
        if (b % 5 == 0) factors[4 * b + b % 4] = b % 4 == 3 ? 0 : 1;
        flip[b] = b % 2, grey[b] = b % 4 == 3;
    }
    float *images = room(pixels, 4), *gradients = room(pixels, 4);
    float *views = room(batch * 3 * out * out, 4), *upstream = room(batch * 3 * out * out, 4);
    for (int64_t i = 0; i < pixels; i++) images[i] = i % 7 ? uniform(0, 1) : (float)(i % 2);
    for (int64_t i = 0; i < batch * 3 * out * out; i++) upstream[i] = uniform(-1, 1);
    Call call = {images, boxes, factors, offsets, sizes, order, flip, grey, out, jitter};
    double total = 0;
    int failed = views_forward(&call, 0, batch / 2, views) | views_forward(&call, batch / 2, batch, views);
    failed |= views_backward(&call, 0, batch / 2, upstream, gradients);
    failed |= views_backward(&call, batch / 2, batch, upstream, gradients);
    for (int64_t i = 0; i < batch * 3 * out * out; i++) total += views[i];
    for (int64_t i = 0; i < pixels; i++) total += gradients[i];
    free(offsets), free(sizes), free(order), free(boxes), free(factors), free(flip), free(grey);
    free(images), free(gradients), free(views), free(upstream);
    return failed ? NAN : total;
}

int main(void) {
    int64_t outs[] = {1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 50};
    double total = 0;
    for (int i = 0; i < 11; i++) total += exercise(outs[i], 24, 1) + exercise(outs[i], 7, 0) + exercise(outs[i], 0, 1);
    printf("%g\\n", total);
    return isfinite(total) ? 0 : 1;
}
"""


def test_the_code_has_no_warnings_stays_inside_its_memory_and_has_no_undefined_behaviour(
    examine: Callable[[Path, str], list[str]],
) -> None:
    assert examine(fused.SOURCE, EXERCISE) == ["", "", ""]
