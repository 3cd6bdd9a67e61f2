"""Crop, resize and flip: the boxes against torchvision's sampler, the pixels against Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from engine.randomness import stream
from engine.views import ViewParameters, Views
from engine.views.arithmetic import FLOAT
from engine.views.geometry import resample, resize_matrices, sample_boxes, view_matrices

Photograph = Callable[[int, int, int], Tensor]

DRAWS = 3000
# Two-sample Kolmogorov-Smirnov at significance 1e-3: 1.949 sqrt((n + m) / (n m)); conservative for whole numbers.
KS_BOUND = 1.949 * math.sqrt(2 / DRAWS)


def ks_distance(one: Tensor, other: Tensor) -> float:
    """Return the largest gap between two samples' distribution functions."""
    points = torch.cat([one, other]).unique()
    gaps = [torch.searchsorted(s.sort().values, points, right=True) / len(s) for s in (one, other)]
    return (gaps[0] - gaps[1]).abs().max().item()


def sizes(batch: int, height: int, width: int) -> Tensor:
    return torch.tensor([height, width]).expand(batch, 2)


def torchvision_boxes(size_HW: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    image = torch.empty(3, *size_HW)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.tensor([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(DRAWS)])


@pytest.mark.parametrize(
    ("size_HW", "scale", "ratio"),
    [
        ((32, 32), (0.2, 1.0), (3 / 4, 4 / 3)),
        # Here about half of the tries do not fit and the ten of them matter, and height differs from width.
        ((24, 40), (0.3, 1.0), (0.3, 1.2)),
        # Most draws end in the central box.
        ((20, 60), (0.7, 0.9), (0.5, 2.0)),
    ],
)
def test_crop_boxes_have_torchvisions_distribution(
    size_HW: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    ours = sample_boxes(stream(0, "boxes"), sizes(DRAWS, *size_HW), scale=scale, ratio=ratio)
    theirs = torchvision_boxes(size_HW, scale, ratio)
    for boxes in (ours, theirs):
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] >= 1).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor(size_HW)).all()
    statistics: dict[str, Callable[[Tensor], Tensor]] = {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "height": lambda b: b[:, 2],
        "width": lambda b: b[:, 3],
        "area": lambda b: b[:, 2] * b[:, 3],
        "log ratio": lambda b: (b[:, 3] / b[:, 2]).log(),
        "bottom margin less top margin": lambda b: size_HW[0] - b[:, 2] - 2 * b[:, 0],
        "right margin less left margin": lambda b: size_HW[1] - b[:, 3] - 2 * b[:, 1],
    }
    distances = {name: ks_distance(of(ours).float(), of(theirs).float()) for name, of in statistics.items()}
    assert {name: d for name, d in distances.items() if d > KS_BOUND} == {}


@pytest.mark.parametrize("scale", [0.3, 0.45, 0.6])
@pytest.mark.parametrize("ratio", [0.7, 0.95, 1.3])
def test_the_size_of_a_given_area_and_ratio_is_rounded_as_torchvision_does(scale: float, ratio: float) -> None:
    with torch.random.fork_rng(devices=[]):
        *_, height, width = RandomResizedCrop.get_params(torch.empty(3, 23, 29), [scale, scale], [ratio, ratio])
    boxes = sample_boxes(stream(0, "boxes"), sizes(5, 23, 29), scale=(scale, scale), ratio=(ratio, ratio))
    assert boxes[:, 2:].tolist() == [[height, width]] * 5


def test_a_crops_position_is_uniform_over_all_places_where_it_fits() -> None:
    boxes = sample_boxes(stream(0, "boxes"), sizes(20_000, 8, 9), scale=(0.5, 0.5), ratio=(1.0, 1.0))
    assert boxes[:, 2:].unique(dim=0).tolist() == [[6, 6]]
    cells, counts = boxes[:, :2].unique(dim=0, return_counts=True)
    assert len(cells) == 3 * 4
    expected = 20_000 / 12
    # Chi-square with 11 degrees of freedom at significance 1e-3.
    assert ((counts - expected) ** 2 / expected).sum() < 31.26


@pytest.mark.parametrize(
    ("size_HW", "expected"),
    [
        # A whole-area crop of such an image never fits the ratios: the central box, with the nearest ratio.
        ((10, 100), [0, 43, 10, 13]),  # width round(10 * 4 / 3) = 13
        ((100, 10), [43, 0, 13, 10]),  # height round(10 / (3 / 4)) = 13
    ],
)
def test_after_ten_misses_the_box_is_central_with_the_nearest_ratio(
    size_HW: tuple[int, int], expected: list[int]
) -> None:
    boxes = sample_boxes(stream(0, "boxes"), sizes(50, *size_HW), scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    assert boxes.tolist() == [expected] * 50


def test_after_ten_misses_an_image_of_an_allowed_ratio_is_kept_whole() -> None:
    # Four times the area never fits.
    boxes = sample_boxes(stream(0, "boxes"), sizes(50, 30, 32), scale=(4.0, 4.0), ratio=(3 / 4, 4 / 3))
    assert boxes.tolist() == [[0, 0, 30, 32]] * 50


SIZES = [
    pytest.param(32, 32, 32, id="enlarging crops of 32 x 32"),
    pytest.param(16, 16, 40, id="enlarging 16 x 16 to 40 x 40"),
    pytest.param(64, 64, 32, id="64 to 32"),
    pytest.param(40, 56, 24, id="40 x 56 to 24"),
    pytest.param(224, 224, 32, id="224 to 32"),
]


def crops_of(image: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes of all shapes, some flipped, and the crops that we make of a float image."""
    height, width = image.shape[1:]
    drawn = sample_boxes(stream(0, "boxes"), sizes(12, height, width), scale=(0.05, 1.0), ratio=(0.5, 2.0))
    corners = [[0, 0, height, width], [height - 1, width - 1, 1, 1], [0, 2, height, 1], [3, 0, 5, width]]
    boxes = torch.cat([drawn, torch.tensor(corners).float()])
    flip = torch.arange(len(boxes)) % 2 == 1
    rows, columns = view_matrices(boxes, flip, (height, width), size)
    return boxes.long(), flip, resample(image.expand(len(boxes), -1, -1, -1), rows, columns)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_crops_are_pillows_up_to_its_rounding(photograph: Photograph, height: int, width: int, size: int) -> None:
    image = photograph(0, height, width)
    boxes, flip, crops = crops_of(image.float() / 255, size)
    differences = []
    for box, flipped, crop in zip(boxes.tolist(), flip.tolist(), crops, strict=True):
        pillow = TF.resized_crop(TF.to_pil_image(image), *box, [size, size])
        pillow = TF.hflip(pillow) if flipped else pillow
        differences.append(255 * crop - TF.pil_to_tensor(pillow))
    difference = torch.stack(differences)
    # Pillow rounds after its horizontal pass (half a level, which the vertical pass averages but cannot
    # enlarge) and after its vertical pass (half a level more). Its fixed-point weights have 22 bits.
    assert difference.abs().max() <= 1 + 1e-3
    # Rounding has no preferred direction; Pillow rounds halves up, which enlarging makes common.
    assert difference.mean().abs() < 0.1
    assert difference.square().mean().sqrt() < 0.5


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_crops_are_torchvisions_antialiased_float_crops(
    photograph: Photograph, height: int, width: int, size: int
) -> None:
    image = photograph(1, height, width).float() / 255
    boxes, flip, crops = crops_of(image, size)
    for box, flipped, crop in zip(boxes.tolist(), flip.tolist(), crops, strict=True):
        expected = TF.resized_crop(image, *box, [size, size], antialias=True)
        expected = TF.hflip(expected) if flipped else expected
        torch.testing.assert_close(crop, expected, atol=2e-6, rtol=0)


def test_the_whole_image_at_its_own_size_is_the_image_to_the_bit(photograph: Photograph) -> None:
    image = photograph(2, 32, 32).float()[None] / 255
    whole = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    for flip in (False, True):
        crop = resample(image, *view_matrices(whole, torch.tensor([flip]), (32, 32), 32))
        assert torch.equal(crop, image.flip(3) if flip else image)


def test_a_crop_does_not_see_the_pixels_around_it(photograph: Photograph) -> None:
    image = photograph(3, 24, 24).float()[None] / 255
    outside = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    outside[..., 5:15, 7:19] = False
    matrices = view_matrices(torch.tensor([[5.0, 7.0, 10.0, 12.0]]), torch.tensor([False]), (24, 24), 16)
    assert torch.equal(resample(image, *matrices), resample(image.masked_fill(outside, 9.0), *matrices))


def test_resize_matrices_are_a_mean_of_the_crops_pixels() -> None:
    weights = resize_matrices(
        torch.tensor([0.0, 5.0, 9.0]), torch.tensor([30.0, 3.0, 1.0]), source=30, target=7, margin=0
    )
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 7))


def test_halving_weights_are_the_triangle_filter_by_hand() -> None:
    # Scale 2, support 2: taps at distances 1.5, 0.5, 0.5, 1.5 weigh 1 : 3 : 3 : 1; the border renormalises.
    weights = resize_matrices(torch.tensor([0.0]), torch.tensor([8.0]), source=8, target=4, margin=0)[0]
    torch.testing.assert_close(weights[1], torch.tensor([0, 1, 3, 3, 1, 0, 0, 0]) / 8)
    torch.testing.assert_close(weights[0], torch.tensor([3, 3, 1, 0, 0, 0, 0, 0]) / 7)


@pytest.mark.parametrize("size", [4, 9], ids=["shrinking", "enlarging"])
def test_crops_have_their_numerical_gradient(size: int) -> None:
    images = torch.rand(2, 3, 6, 7, generator=stream(0, "images"), dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 1.0, 6.0, 5.0], [2.0, 0.0, 3.0, 7.0]])
    rows, columns = view_matrices(boxes, torch.tensor([False, True]), (6, 7), size)
    assert torch.autograd.gradcheck(lambda x: resample(x, rows.double(), columns.double()), images)


def corners_of(views: Views, draws: int, size_HW: tuple[int, int]) -> Tensor:
    boxes = views.sample(stream(0, "boxes"), draws, size_HW).boxes
    assert torch.equal(boxes[:, 2:], torch.tensor(size_HW).float().expand(draws, 2))
    return boxes[:, :2]


def in_place(size: int, *, padding: int = 0, shift: float = 0.0, flip: float = 0.0) -> Views:
    """Return views that move the image and leave its colours alone."""
    return Views(size, None, (1.0, 1.0), flip, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, padding=padding, shift=shift)


def test_offsets_of_a_padded_crop_are_uniform_over_all_places() -> None:
    cells, counts = corners_of(in_place(16, padding=2), 20_000, (16, 20)).unique(dim=0, return_counts=True)
    assert sorted(cells.tolist()) == [[top, left] for top in range(-2, 3) for left in range(-2, 3)]
    expected = 20_000 / 25
    # Chi-square with 24 degrees of freedom at significance 1e-3.
    assert ((counts - expected) ** 2 / expected).sum() < 51.18


def test_shifts_are_uniform_and_independent() -> None:
    corners = corners_of(in_place(16, shift=2.5), 20_000, (16, 20))
    assert corners.abs().max() <= 2.5
    empirical = (torch.arange(20_000) + 0.5) / 20_000
    for axis in range(2):
        # One-sample Kolmogorov-Smirnov at significance 1e-3.
        distance = ((corners[:, axis].sort().values + 2.5) / 5 - empirical).abs().max()
        assert distance < 1.949 / math.sqrt(20_000)
    # Within 3.3 standard deviations of no correlation.
    assert torch.corrcoef(corners.T)[0, 1].abs() < 3.3 / math.sqrt(20_000)


def both_ways(views: Views, images: Tensor, parameters: ViewParameters) -> list[Tensor]:
    """Return the views that are compiled where there is a compiler, and torch's."""
    return [views.apply(images, parameters), views._in_turn(images, parameters, FLOAT)]


def test_a_padded_crop_is_torchvisions_to_the_bit(photograph: Photograph) -> None:
    images = torch.stack([photograph(seed, 20, 20) for seed in range(40)]).float() / 255
    views = in_place(20, padding=4, flip=0.5)
    parameters = views.sample(stream(0, "padding"), 40, (20, 20))
    expected = []
    for image, (top, left, *_), flip in zip(images, parameters.boxes.long().tolist(), parameters.flip, strict=True):
        moved = TF.crop(TF.pad(image, [4, 4, 4, 4]), top + 4, left + 4, 20, 20)
        expected.append(TF.hflip(moved) if flip else moved)
    for found in both_ways(views, images, parameters):
        assert torch.equal(found, torch.stack(expected))


def test_a_padded_crop_of_another_size_is_torchvisions(photograph: Photograph) -> None:
    images = torch.stack([photograph(seed, 26, 30) for seed in range(20)]).float() / 255
    for size in (16, 40):
        views = in_place(size, padding=5)
        parameters = views.sample(stream(0, "padding"), 20, (26, 30))
        expected = [
            TF.resized_crop(TF.pad(image, [5] * 4), top + 5, left + 5, 26, 30, [size, size], antialias=True)
            for image, (top, left, *_) in zip(images, parameters.boxes.long().tolist(), strict=True)
        ]
        for found in both_ways(views, images, parameters):
            torch.testing.assert_close(found, torch.stack(expected), atol=2e-6, rtol=0)


def test_a_shift_is_torchs_bilinear_sampling_with_black_outside(photograph: Photograph) -> None:
    images = torch.stack([photograph(seed, 18, 18) for seed in range(40)]).float() / 255
    views = in_place(18, shift=3.5)
    parameters = views.sample(stream(0, "shift"), 40, (18, 18))
    down, right = (2 * parameters.boxes[:, :2] / 18).unbind(dim=1)  # grid_sample counts the image's side as two
    still = torch.zeros(40)
    turn = torch.stack([torch.stack([still + 1, still, right]), torch.stack([still, still + 1, down])])
    grid = F.affine_grid(turn.permute(2, 0, 1), [40, 3, 18, 18], align_corners=False)
    expected = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    for found in both_ways(views, images, parameters):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [6, 4, 9], ids=["as large", "shrinking", "enlarging"])
@pytest.mark.parametrize("way", [{"padding": 2}, {"shift": 1.7}], ids=["padding", "shift"])
def test_boxes_that_leave_the_image_have_their_numerical_gradient(size: int, way: dict[str, float]) -> None:
    views = in_place(size, flip=0.5, **way)
    images = torch.rand(3, 3, 6, 7, generator=stream(0, "images"), dtype=torch.float64, requires_grad=True)
    parameters = views.sample(stream(0, "boxes"), 3, (6, 7))
    # The fast mode checks one random direction instead of every pixel.
    assert torch.autograd.gradcheck(lambda x: views.apply(x, parameters), images, fast_mode=True)


def test_a_box_beyond_the_image_is_black() -> None:
    parameters = in_place(6, padding=8).sample(stream(0, "boxes"), 1, (6, 6))
    parameters.boxes[0] = torch.tensor([7.0, -8.0, 6.0, 6.0])
    for found in both_ways(in_place(6, padding=8), torch.ones(1, 3, 6, 6), parameters):
        assert torch.equal(found, torch.zeros(1, 3, 6, 6))
