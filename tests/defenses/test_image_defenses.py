"""Defenses that change pixels, against Pillow, torchvision, scipy, closed forms and loops."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage, stats
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms import functional as TF

from engine import plugins
from engine.precision import Precision
from engine.protocols import Defense, DefenseContext, ImageSet
from engine.randomness import stream
from engine.specfiles import load, names

RANDOM = {"random_noise", "cutout"}
FILTERS = {"gaussian_smoothing", "jpeg", "grayscale", "bit_depth"}
DECLARED = [name for name in names("defenses") if load("defenses", name).kind in RANDOM | FILTERS]
DETERMINISTIC = [name for name in DECLARED if load("defenses", name).kind in FILTERS]
GREY = 0.5
SIGNIFICANCE = 1e-3


def spec_of(kind: str, **fields: Any) -> Any:
    return TypeAdapter(plugins.spec_of("defenses")).validate_python({"kind": kind, **fields})


def change_of(kind: str, **fields: Any) -> Callable[[Tensor], Tensor]:
    """Return what a defense does to a batch, with a stream of its own."""
    defense: Defense = plugins.build("defenses", spec_of(kind, position="batch", **fields))
    generator = stream(0, "defense", kind)
    return lambda images: defense.on_batch(images, generator)


def photographs(count: int, height: int, width: int) -> Tensor:
    """Return smooth shapes with fine noise on them, black and white among them: uint8."""
    generator = stream(0, "photographs")
    shapes = interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=(height, width), mode="bicubic")
    fine = 12 * torch.randn(count, 3, height, width, generator=generator)
    return (255 * (1.6 * shapes - 0.3) + fine).clamp(0, 255).round().to(torch.uint8)


def levels(images: Tensor) -> Tensor:
    """Return images in grey levels, after checking that they are whole ones."""
    exact = 255 * images
    assert (exact - exact.round()).abs().max() < 1e-4  # a float's last bits
    return exact.round().to(torch.uint8)


def with_pillow(change: Callable[[Image.Image], Image.Image], images_u8: Tensor) -> Tensor:
    changed = [np.asarray(change(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in images_u8]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


def recoded(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=quality)
        return Image.open(file)

    return change


class TestEveryOne:
    def test_all_of_them_are_declared(self) -> None:
        assert {load("defenses", name).kind for name in DECLARED} == RANDOM | FILTERS
        assert len(DECLARED) >= 9

    @settings(max_examples=60, deadline=None)
    @given(
        name=st.sampled_from(DECLARED),
        shape=st.tuples(st.integers(1, 3), st.just(3), st.integers(8, 20), st.integers(8, 20)),
        contrast=st.sampled_from([0.0, 0.3, 1.0, 50.0]),
        seed=st.integers(0, 2**31),
    )
    def test_images_keep_shape_type_and_range(
        self, name: str, shape: tuple[int, ...], contrast: float, seed: int
    ) -> None:
        # High contrast: all black or white; none: one grey.
        images = (GREY + contrast * (torch.rand(shape, generator=stream(seed, "images")) - 0.5)).clamp(0, 1)
        before = images.clone()
        defense = plugins.build("defenses", load("defenses", name).model_copy(update={"position": "batch"}))
        changed = defense.on_batch(images, stream(seed, "defense"))
        assert changed.shape == images.shape
        assert changed.dtype == torch.float32
        assert changed.is_contiguous()
        assert 0 <= changed.min() <= changed.max() <= 1
        assert torch.equal(images, before)

    @pytest.mark.parametrize("name", DECLARED)
    def test_at_the_data_set_it_is_what_it_is_at_a_batch_rounded_to_eight_bits(self, name: str) -> None:
        images = ImageSet(photographs(12, 16, 16), torch.arange(12), tuple("abcdefghijkl"))
        at_dataset, at_batch = (
            plugins.build("defenses", load("defenses", name).model_copy(update={"position": position}))
            for position in ("dataset", "batch")
        )
        context = DefenseContext(
            stream(1, "defense"), Precision("fp32", torch.device("cpu")), lambda which: nn.Identity()
        )
        expected = (255 * at_batch.on_batch(images.images_u8.float() / 255, stream(1, "defense"))).round()
        assert torch.equal(at_dataset.on_dataset(images, context).images_u8, expected.to(torch.uint8))

    @pytest.mark.parametrize("name", DETERMINISTIC)
    def test_a_filter_draws_nothing_and_treats_every_image_alike(self, name: str) -> None:
        images, generator = photographs(6, 16, 16).float() / 255, stream(2, "defense")
        before = generator.get_state()
        defense = plugins.build("defenses", load("defenses", name).model_copy(update={"position": "batch"}))
        changed = defense.on_batch(images, generator)
        assert torch.equal(generator.get_state(), before)
        singly = torch.cat([defense.on_batch(image[None], generator) for image in images])
        torch.testing.assert_close(singly, changed, atol=1e-6, rtol=0)

    def test_the_papers_rows_are_declared_as_the_paper_has_them(self) -> None:
        assert load("defenses", "random_noise_8").sigma == 8 / 255
        assert load("defenses", "random_noise_64").sigma == 64 / 255
        assert [load("defenses", f"gaussian_smoothing_{kernel}").kernel for kernel in (3, 15)] == [3, 15]
        assert load("defenses", "cutout").holes == 1
        for name in ("random_noise_8", "random_noise_64", "gaussian_smoothing_3", "gaussian_smoothing_15", "cutout"):
            assert load("defenses", name).position == "after_view"
        for name in ("jpeg_10", "jpeg_50", "grayscale", "bit_depth_2"):
            assert load("defenses", name).position == "dataset"

    @pytest.mark.parametrize(
        ("kind", "fields", "message"),
        [
            ("random_noise", {}, "sigma"),
            ("random_noise", {"sigma": 0.0}, "greater than 0"),
            ("random_noise", {"sigma": "300/255"}, "less than or equal to 1"),
            ("random_noise", {"sigma": "8/255", "distribution": "normal"}, "'gaussian' or 'uniform'"),
            ("gaussian_smoothing", {"kernel": 4}, "must be odd"),
            ("gaussian_smoothing", {"kernel": 1}, "greater than or equal to 3"),
            ("gaussian_smoothing", {"kernel": 3, "sigma": 0.0}, "greater than or equal to 0.01"),
            ("cutout", {"holes": 0}, "greater than 0"),
            ("cutout", {"size_rel": 1.5}, "less than or equal to 1"),
            ("cutout", {"fill": (0.0, 0.0, 125.0)}, "less than or equal to 1"),
            ("jpeg", {"quality": 0}, "greater than or equal to 1"),
            ("jpeg", {"quality": 96}, "less than or equal to 95"),
            ("bit_depth", {"bits": 8}, "less than or equal to 7"),
            ("grayscale", {"position": "before"}, "'dataset', 'batch', 'before_view' or 'after_view'"),
        ],
    )
    def test_bad_values_are_named(self, kind: str, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            spec_of(kind, **fields)


class TestRandomNoise:
    SIGMA = 8 / 255  # sixteen of them fit between grey and either end: nothing is clipped

    @pytest.fixture(params=["gaussian", "uniform"])
    def noise(self, request: pytest.FixtureRequest) -> tuple[str, Tensor]:
        images = torch.full((64, 3, 32, 32), GREY)
        return request.param, change_of("random_noise", sigma=self.SIGMA, distribution=request.param)(images) - images

    def test_it_has_the_declared_distribution(self, noise: tuple[str, Tensor]) -> None:
        name, values = noise
        bound = math.sqrt(3) * self.SIGMA
        law = {"gaussian": stats.norm(0, self.SIGMA), "uniform": stats.uniform(-bound, 2 * bound)}[name]
        assert stats.kstest(values.flatten().double().numpy(), law.cdf).pvalue > SIGNIFICANCE

    def test_its_standard_deviation_is_sigma_and_its_mean_is_zero(self, noise: tuple[str, Tensor]) -> None:
        name, values = noise
        count = values.numel()
        # The variance of a sample variance is (kurtosis - 1) / n of sigma^4: a standard deviation varies half as much.
        kurtosis = {"gaussian": 3.0, "uniform": 1.8}[name]
        assert values.std() == pytest.approx(self.SIGMA, rel=3.3 / 2 * math.sqrt((kurtosis - 1) / count))
        assert values.mean() == pytest.approx(0, abs=3.3 * self.SIGMA / math.sqrt(count))

    def test_images_channels_and_neighbours_do_not_share_it(self, noise: tuple[str, Tensor]) -> None:
        values = noise[1] / self.SIGMA
        for one, other in (
            (values[:-1], values[1:]),
            (values[:, :-1], values[:, 1:]),
            (values[..., :-1], values[..., 1:]),
            (values[..., :-1, :], values[..., 1:, :]),
        ):
            assert (one * other).mean() == pytest.approx(0, abs=3.3 / math.sqrt(one.numel()))

    def test_each_call_draws_its_own(self) -> None:
        change, images = change_of("random_noise", sigma=self.SIGMA), torch.full((2, 3, 8, 8), GREY)
        first, second = change(images) - GREY, change(images) - GREY
        assert not torch.isclose(first, second, atol=1e-6).all(dim=(1, 2, 3)).any()

    @pytest.mark.parametrize("edge", [0.0, 1.0])
    def test_at_the_ends_of_the_range_half_of_it_is_left(self, edge: float) -> None:
        images = torch.full((64, 3, 32, 32), edge)
        change = (change_of("random_noise", sigma=self.SIGMA)(images) - images).abs() / self.SIGMA
        count = change.numel()
        assert (change == 0).float().mean() == pytest.approx(0.5, abs=3.3 * 0.5 / math.sqrt(count))
        # max(0, z) of a standard normal z has mean 1 / sqrt(2 pi) and mean square 1/2.
        mean = 1 / math.sqrt(2 * math.pi)
        assert change.mean() == pytest.approx(mean, abs=3.3 * math.sqrt((0.5 - mean**2) / count))


class TestGaussianSmoothing:
    @pytest.mark.parametrize("sigma", [None, 0.3, 1.0, 4.0])
    @pytest.mark.parametrize(("kernel", "size"), [(3, (32, 32)), (15, (32, 32)), (15, (8, 27)), (7, (16, 9))])
    def test_it_is_torchvisions_and_scipys(self, kernel: int, size: tuple[int, int], sigma: float | None) -> None:
        images = photographs(4, *size).float() / 255
        smoothed = change_of("gaussian_smoothing", kernel=kernel, sigma=sigma)(images)
        by_torchvision = TF.gaussian_blur(images, [kernel, kernel], None if sigma is None else [sigma, sigma])
        torch.testing.assert_close(smoothed, by_torchvision, atol=2e-6, rtol=0)
        width = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8 if sigma is None else sigma
        by_scipy = ndimage.gaussian_filter(
            images.double().numpy(), width, radius=kernel // 2, mode="mirror", axes=(2, 3)
        )
        torch.testing.assert_close(smoothed.double(), torch.from_numpy(by_scipy), atol=2e-6, rtol=0)

    def test_the_default_sigmas(self) -> None:
        assert [spec_of("gaussian_smoothing", kernel=kernel).width for kernel in (3, 15)] == [
            pytest.approx(0.8),
            pytest.approx(2.6),
        ]

    def test_a_point_becomes_the_kernel(self) -> None:
        images = torch.zeros(1, 3, 9, 9)
        images[0, :, 4, 4] = 1
        beside = math.exp(-1 / (2 * 0.8**2))
        taps = torch.tensor([beside, 1, beside]) / (1 + 2 * beside)
        assert taps.tolist() == pytest.approx([0.239, 0.522, 0.239], abs=5e-4)
        smoothed = change_of("gaussian_smoothing", kernel=3)(images)
        expected = torch.zeros(3, 9, 9)
        expected[:, 3:6, 3:6] = taps[:, None] * taps
        torch.testing.assert_close(smoothed[0], expected, atol=1e-7, rtol=0)

    def test_a_wide_sigma_makes_it_a_mean(self) -> None:
        images = photographs(2, 16, 16).float() / 255
        smoothed = change_of("gaussian_smoothing", kernel=3, sigma=1000.0)(images)
        for row, column in ((1, 1), (7, 12)):
            mean = images[:, :, row - 1 : row + 2, column - 1 : column + 2].mean(dim=(2, 3))
            torch.testing.assert_close(smoothed[:, :, row, column], mean, atol=1e-5, rtol=0)

    def test_a_kernel_that_reaches_over_the_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match="kernel of 15 needs images of more than 7 pixels, got 7"):
            change_of("gaussian_smoothing", kernel=15)(torch.rand(1, 3, 7, 12, generator=stream(0, "images")))


class TestCutout:
    FILL = (0.25, 0.5, 0.75)

    def cut(self, images: Tensor, **fields: Any) -> Tensor:
        """Return which pixels of each image were painted over: bool [B, H, W]."""
        changed = change_of("cutout", fill=self.FILL, **fields)(images)
        is_cut = (changed == torch.tensor(self.FILL)[:, None, None]).all(dim=1)
        assert torch.equal(changed.movedim(1, 3)[~is_cut], images.movedim(1, 3)[~is_cut])
        return is_cut

    def holes(self, height: int, width: int, side: int) -> list[Tensor]:
        """Return the hole around each pixel, as DeVries and Taylor's code cuts it (of an even side)."""
        masks = []
        for y in range(height):
            for x in range(width):
                mask = torch.zeros(height, width, dtype=torch.bool)
                for row in range(max(y - side // 2, 0), min(y + side // 2, height)):
                    for column in range(max(x - side // 2, 0), min(x + side // 2, width)):
                        mask[row, column] = True
                masks.append(mask)
        return masks

    def test_every_hole_is_one_of_the_originals_each_as_often(self) -> None:
        expected = [mask.numpy().tobytes() for mask in self.holes(8, 10, 4)]
        assert len(set(expected)) == 80
        is_cut = self.cut(torch.ones(16000, 3, 8, 10), size_rel=0.5)
        counts = Counter(mask.numpy().tobytes() for mask in is_cut)
        assert set(counts) == set(expected)
        assert stats.chisquare([counts[mask] for mask in expected]).pvalue > SIGNIFICANCE

    def test_the_papers_hole_is_sixteen_pixels_wide_and_hangs_over_the_border(self) -> None:
        spec = load("defenses", "cutout")
        images = torch.ones(4000, 3, 32, 32)
        is_cut = self.cut(images, holes=spec.holes, size_rel=spec.size_rel)
        heights, widths = is_cut.any(dim=2).sum(dim=1), is_cut.any(dim=1).sum(dim=1)
        assert torch.equal(is_cut.sum(dim=(1, 2)), heights * widths)  # one rectangle each
        for sides in (heights, widths):
            # Centres 8 to 24 leave it whole; 0 to 7 and 25 to 31 cut it off by 8 to 1 and 1 to 7 pixels.
            assert set(sides.tolist()) == set(range(8, 17))
            whole = (sides == 16).float().mean()
            assert whole == pytest.approx(17 / 32, abs=3.3 * math.sqrt(17 / 32 * 15 / 32 / 4000))

    @pytest.mark.parametrize("holes", [1, 3])
    def test_a_pixel_is_covered_as_often_as_centres_are_near(self, holes: int) -> None:
        count = 4000
        near = torch.stack(self.holes(12, 12, 6)).float().mean(dim=0)
        expected = 1 - (1 - near) ** holes
        share = self.cut(torch.ones(count, 3, 12, 12), holes=holes).float().mean(dim=0)
        # Five standard deviations, for 144 pixels.
        assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()

    @pytest.mark.parametrize(("size_rel", "side"), [(0.01, 1), (0.2, 3), (0.44, 7), (1.0, 16)])
    def test_its_side_is_the_rounded_fraction_of_the_shorter_side(self, size_rel: float, side: int) -> None:
        is_cut = self.cut(torch.ones(2000, 3, 16, 40), size_rel=size_rel)
        assert is_cut.any(dim=1).sum(dim=1).max() == side
        assert is_cut.any(dim=2).sum(dim=1).max() == side

    def test_every_image_and_every_call_has_its_own(self) -> None:
        change, images = change_of("cutout"), photographs(8, 32, 32).float() / 255
        first, second = change(images) != images, change(images) != images
        assert len({mask.numpy().tobytes() for mask in (*first, *second)}) == 16


class TestJpeg:
    @pytest.mark.parametrize("quality", [1, 10, 50, 90, 95])
    @pytest.mark.parametrize("size", [(32, 32), (9, 21), (96, 64)])
    def test_its_pixels_are_pillows_to_the_bit(self, quality: int, size: tuple[int, int]) -> None:
        images = photographs(20, *size)
        expected = with_pillow(recoded(quality), images)
        assert torch.equal(levels(change_of("jpeg", quality=quality)(images.float() / 255)), expected)
        assert not torch.equal(expected, images)

    def test_values_between_levels_count_as_the_nearest(self) -> None:
        images = photographs(4, 16, 16).float()
        change = change_of("jpeg", quality=50)
        nearby = (images + 0.98 * (torch.rand(images.shape, generator=stream(0, "offsets")) - 0.5)).clamp(0, 255)
        assert torch.equal(change(nearby / 255), change(images / 255))

    def test_a_grey_that_is_the_centre_of_the_range_survives_any_quality(self) -> None:
        # Every coefficient of it is zero.
        images = torch.full((1, 3, 16, 16), 128 / 255)
        assert torch.equal(levels(change_of("jpeg", quality=1)(images)), levels(images))

    def test_less_quality_keeps_less_of_a_fine_pattern(self) -> None:
        images = torch.full((1, 3, 32, 32), GREY)
        images[..., ::2] += 8 / 255
        kept = [change_of("jpeg", quality=quality)(images).std(dim=3).mean().item() for quality in (10, 50, 95)]
        assert kept[0] == 0
        assert kept[0] <= kept[1] < kept[2]


class TestGrayscale:
    def test_it_is_pillows_to_the_bit(self) -> None:
        colours = torch.randint(0, 256, (4, 3, 128, 128), generator=stream(0, "colours"), dtype=torch.uint8)
        expected = with_pillow(lambda image: image.convert("L").convert("RGB"), colours)
        assert torch.equal(levels(change_of("grayscale")(colours.float() / 255)), expected)

    def test_grey_stays_and_pure_colours_become_their_lumas(self) -> None:
        grey = torch.arange(256).expand(1, 3, 1, 256).float() / 255
        assert torch.equal(levels(change_of("grayscale")(grey)), levels(grey))
        red_green_blue = torch.eye(3).view(1, 3, 1, 3)
        assert levels(change_of("grayscale")(red_green_blue))[0, :, 0].tolist() == [[76, 150, 29]] * 3


class TestBitDepth:
    @pytest.mark.parametrize("bits", range(1, 8))
    def test_all_levels_become_pillows(self, bits: int) -> None:
        every = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
        reduced = levels(change_of("bit_depth", bits=bits)(every.float() / 255))
        assert torch.equal(reduced, with_pillow(lambda image: ImageOps.posterize(image, bits), every))
        assert reduced.unique().tolist() == [level for level in range(256) if level % 2 ** (8 - bits) == 0]

    @settings(max_examples=30, deadline=None)
    @given(bits=st.integers(1, 7), fewer=st.integers(1, 7), seed=st.integers(0, 2**31))
    def test_what_is_kept_first_does_not_matter(self, bits: int, fewer: int, seed: int) -> None:
        images = torch.rand(1, 3, 8, 8, generator=stream(seed, "images"))
        twice = change_of("bit_depth", bits=fewer)(change_of("bit_depth", bits=bits)(images))
        assert torch.equal(twice, change_of("bit_depth", bits=min(bits, fewer))(images))
