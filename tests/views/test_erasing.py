"""UEraser's augmentation: plasma by loops, channels and colours by Pillow and by hand, what is drawn and how often."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor

from engine.randomness import stream
from engine.views.color import BRIGHTNESS, CONTRAST, SATURATION, blend, solarize
from engine.views.erasing import erase, posterize, recolour, shuffle_channels, stretch
from engine.views.plasma import add_plasma, diamond_square_, multiply_plasma, plasma_like


def images_of(count: int = 4, height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    """Return random images in eight bits: some flat, some between two close levels."""
    generator = stream(seed, "images")
    levels = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    levels[0, 0], levels[-1] = 77, levels[-1] // 4 + 90
    return levels / 255


# Plasma


def diamond_square_by_loops(noise: np.ndarray, roughness: float) -> np.ndarray:
    """Return one field, pixel after pixel."""
    side = len(noise)
    field: dict[tuple[int, int], float] = {(y, x): noise[y, x] for y in (0, side - 1) for x in (0, side - 1)}
    step, part = side - 1, 1.0
    while step > 1:
        half, part = step // 2, part * roughness
        diagonal = [(-half, -half), (-half, half), (half, -half), (half, half)]
        straight = [(-half, 0), (half, 0), (0, -half), (0, half)]
        middles = [(y, x) for y in range(half, side, step) for x in range(half, side, step)]
        edges = [(y, x) for y in range(0, side, half) for x in range(0, side, half) if (y // half + x // half) % 2 == 1]
        for places, around in ((middles, diagonal), (edges, straight)):
            for y, x in places:
                near = [field[y + dy, x + dx] for dy, dx in around if (y + dy, x + dx) in field]
                field[y, x] = (1 - part) * sum(near) / len(near) + part * noise[y, x]
        step = half
    return np.array([[field[y, x] for x in range(side)] for y in range(side)])


@pytest.mark.parametrize("side", [2, 3, 5, 9, 17])
def test_fields_are_those_of_the_algorithm_by_loops(side: int) -> None:
    noise = torch.rand(3, side, side, dtype=torch.float64, generator=stream(side, "noise"))
    roughness = torch.tensor([0.0, 0.4, 0.9], dtype=torch.float64)
    expected = [diamond_square_by_loops(each.numpy(), float(part)) for each, part in zip(noise, roughness, strict=True)]
    torch.testing.assert_close(diamond_square_(noise, roughness), torch.from_numpy(np.stack(expected)))


def test_the_roughest_field_is_the_noise_and_the_smoothest_forgets_all_but_its_corners() -> None:
    noise = torch.rand(2, 9, 9, generator=stream(0, "noise"))
    rough, smooth = diamond_square_(noise.clone(), torch.tensor([1.0, 0.0]))
    assert torch.equal(rough, noise[0])
    other = torch.rand(1, 9, 9, generator=stream(1, "noise"))
    other[:, ::8, ::8] = noise[1:, ::8, ::8]
    torch.testing.assert_close(diamond_square_(other, torch.zeros(1))[0], smooth)
    torch.testing.assert_close(smooth[4, 4], noise[1, ::8, ::8].mean())
    flat = torch.full((1, 9, 9), 0.3)
    torch.testing.assert_close(diamond_square_(flat.clone(), torch.tensor([0.5])), flat)


def test_rougher_fields_vary_more_from_pixel_to_pixel() -> None:
    roughness = torch.tensor([0.3, 0.5, 0.7]).repeat_interleave(40)
    fields = plasma_like(torch.zeros(120, 1, 32, 32), roughness, stream(0, "plasma"))
    variation = fields.diff(dim=3).abs().flatten(1).mean(dim=1).view(3, 40).mean(dim=1)
    assert variation[0] < 0.7 * variation[1] < 0.49 * variation[2]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(2, 40), width=st.integers(2, 40))
def test_every_channel_of_any_image_has_a_field_of_its_own(seed: int, height: int, width: int) -> None:
    images = torch.zeros(2, 3, height, width)
    fields = plasma_like(images, torch.tensor([0.3, 0.7]), stream(seed, "plasma"))
    assert fields.shape == images.shape
    assert 0 <= fields.min() <= fields.max() <= 1
    assert len({tuple(field.flatten().tolist()) for field in fields.flatten(0, 1)}) == 6
    # The smallest grid that holds the image: its last line is used where the image has a power of two and one more.
    side = next(2**n + 1 for n in range(9) if 2**n + 1 >= max(height, width))
    noise = torch.rand(6, side, side, generator=stream(seed, "plasma"))
    expected = diamond_square_(noise, torch.tensor([0.3, 0.3, 0.3, 0.7, 0.7, 0.7])).view(2, 3, side, side)
    assert torch.equal(fields, expected[:, :, :height, :width])


def test_plasma_brightens_darkens_and_bends_contrast() -> None:
    images, roughness, intensity = images_of(), torch.full((4,), 0.5), torch.tensor([0.0, 0.5, 0.8, 1.0])
    plasma = plasma_like(images, roughness, stream(0, "plasma"))
    added = add_plasma(images, roughness, intensity, generator=stream(0, "plasma"))
    multiplied = multiply_plasma(images, roughness, generator=stream(0, "plasma"))
    for image in range(4):
        change = float(intensity[image]) * (2 * plasma[image] - 1)
        torch.testing.assert_close(added[image], (images[image] + change).clamp(0, 1))
        expected = ((images[image] - 0.5) * 4 * plasma[image] + 0.5).clamp(0, 1)
        torch.testing.assert_close(multiplied[image], expected)
    assert torch.equal(added[0], images[0])


# Channels and colours


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_posterizing_is_pillows(bits: int) -> None:
    images = torch.arange(256).view(1, 1, 16, 16).expand(2, 3, 16, 16) / 255
    posterized = posterize(images, torch.tensor([2.0**bits, 16.0]))
    torch.testing.assert_close(posterized[0], tensor(ImageOps.posterize(pillow(images[0]), bits)))
    assert len(posterized[0].unique()) == 2**bits
    assert len(posterized[1].unique()) == 16
    nearly = (images[:1] + 0.4 / 255).clamp(0, 1), (images[:1] - 0.4 / 255).clamp(0, 1)  # rounded to eight bits first
    assert all(torch.equal(posterize(each, torch.tensor([2.0**bits])), posterized[:1]) for each in nearly)


def test_stretching_is_pillows_automatic_contrast_to_one_level() -> None:
    images = images_of(6, 9, 7)
    for image, stretched in zip(images, stretch(images), strict=True):
        expected = tensor(ImageOps.autocontrast(pillow(image)))
        torch.testing.assert_close(stretched, expected, atol=1.01 / 255, rtol=0)
    assert torch.equal(stretch(images)[0, 0], images[0, 0])  # flat
    varied = stretch(images)[1:]
    assert torch.equal(varied.amin(dim=(2, 3)), torch.zeros(5, 3))
    assert torch.equal(varied.amax(dim=(2, 3)), torch.ones(5, 3))


def test_channels_take_an_order_of_each_images_own() -> None:
    images = images_of(3)
    orders = [[2, 0, 1], [0, 1, 2], [1, 0, 2]]
    shuffled = shuffle_channels(images, torch.tensor(orders))
    for image, order, result in zip(images, orders, shuffled, strict=True):
        assert torch.equal(result, torch.stack([image[channel] for channel in order]))


def test_every_image_is_recoloured_by_one_operation_drawn_uniformly() -> None:
    images = images_of(1, 4, 4).expand(1200, 3, 4, 4)
    recoloured, draws = recolour(images, stream(0, "colours")), stream(0, "colours")
    operations = torch.randint(6, (1200,), generator=draws)
    factors = torch.empty(1200).uniform_(0.1, 1.9, generator=draws)
    thresholds = torch.rand(1200, generator=draws)
    bits = torch.randint(1, 5, (1200,), generator=draws)
    # A chi-squared statistic of five degrees of freedom exceeds 20.5 once in a thousand draws.
    counts = torch.bincount(operations, minlength=6)
    assert ((counts - 200).square() / 200).sum() < 20.5
    for row in range(60):
        image, operation = images[row : row + 1], int(operations[row])
        if operation in (BRIGHTNESS, CONTRAST, SATURATION):
            expected = blend(image, operations[row : row + 1], factors[row : row + 1])
        elif operation == 3:
            expected = solarize(image, float(thresholds[row]))
        elif operation == 4:
            expected = posterize(image, 2.0 ** bits[row : row + 1])
        else:
            expected = stretch(image)
        torch.testing.assert_close(recoloured[row : row + 1], expected)
    assert len(set(operations[:60].tolist())) == 6


def test_a_threshold_of_each_image_solarizes_that_image() -> None:
    images, thresholds = images_of(3), torch.tensor([0.2, 0.5, 0.9])
    expected = [solarize(image, float(threshold)) for image, threshold in zip(images, thresholds, strict=True)]
    assert torch.equal(solarize(images, thresholds[:, None, None, None]), torch.stack(expected))


# The whole


def test_half_of_the_images_meet_each_of_the_strong_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    met = {}
    for name in ("add_plasma", "multiply_plasma", "shuffle_channels"):

        def spy(images: Tensor, *parameters: Tensor, name: str = name, **given: object) -> Tensor:
            met[name] = ({round(value * 1000) for value in images[:, 0, 0, 0].tolist()}, parameters)
            return images

        monkeypatch.setattr(f"engine.views.erasing.{name}", spy)
    numbered = torch.arange(1000.0).div(1000)[:, None, None, None].expand(1000, 3, 2, 2)
    erase(numbered, stream(0, "erase"))
    assert all(450 <= len(rows) <= 550 for rows, _ in met.values())  # three deviations are 47
    for one, other in itertools.combinations([rows for rows, _ in met.values()], 2):
        assert 209 <= len(one & other) <= 291  # drawn one by one; three deviations are 41
    for name, bounds in (("add_plasma", [(0.3, 0.7), (0.5, 1.0)]), ("multiply_plasma", [(0.3, 0.7)])):
        for drawn, (low, high) in zip(met[name][1], bounds, strict=True):
            assert low <= drawn.min() < low + 0.01
            assert high - 0.01 < drawn.max() <= high
    orders = met["shuffle_channels"][1][0]
    assert torch.bincount((orders * torch.tensor([9, 3, 1])).sum(dim=1)).count_nonzero() == 6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), side=st.integers(2, 33))
def test_erased_images_keep_their_shape_and_range(seed: int, count: int, side: int) -> None:
    images = images_of(count, side, side, seed)
    before = images.clone()
    erased = erase(images, stream(seed, "erase"))
    assert erased.shape == images.shape
    assert erased.dtype == torch.float32
    assert 0 <= erased.min() <= erased.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(erased, erase(images, stream(seed, "erase")))
