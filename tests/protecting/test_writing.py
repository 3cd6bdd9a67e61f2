"""The protected folder, and what is left of its noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from engine.images import upright_rgb
from engine.protecting.intake import IntakeFault, take_in
from engine.protecting.upsample import max_difference
from engine.protecting.variants import VARIANTS, recompress, resize_and_back
from engine.protecting.writing import survival_of, write_protected
from engine.randomness import stream
from tests.protecting.folders import mixed_folder, picture

BOUND = 8


def noise(row: int, size: int = 16) -> torch.Tensor:
    return torch.randint(-BOUND, BOUND + 1, (3, size, size), generator=stream(row, "noise"), dtype=torch.int8)


def rgb(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        return np.asarray(upright_rgb(opened))


def test_every_kind_of_file_is_protected_losslessly_inside_the_budget(tmp_path: Path) -> None:
    taken = take_in(mixed_folder(tmp_path / "mixed"), 16)
    written, variants = write_protected(taken, noise, bound=BOUND, output=tmp_path / "out")
    assert len(written) == 12
    for row, each in enumerate(written):
        before, after = rgb(taken.folder / each.original.name), rgb(tmp_path / "out/images" / each.name)
        assert before.shape == after.shape
        assert 0 < each.max_difference == max_difference(before, after) <= BOUND
        seen = Image.fromarray(after).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(variants["released"][row], np.asarray(seen).transpose(2, 0, 1))
    files = sorted(path.name for path in (tmp_path / "out/images").iterdir())
    assert files == sorted(each.name for each in written)
    assert {"plain.jpg.png", "plain.png", "plain.webp", "turned.png", "moving.png", "print.png"} <= set(files)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images"]


def test_images_of_the_working_size_are_what_a_study_would_release(tmp_path: Path) -> None:
    picture(0, 16, 16).save(tmp_path / "a.png")
    taken = take_in(tmp_path, 16)
    written, variants = write_protected(taken, noise, bound=BOUND, output=tmp_path / "out")
    expected = (taken.working_u8.int() + noise(0)).clamp(0, 255)
    assert torch.equal(variants["released"].int(), expected)
    assert written[0].survival is not None
    assert (written[0].survival.norm, written[0].survival.cosine) == (1.0, 1.0)


def test_a_second_run_replaces_what_an_interrupted_one_left(tmp_path: Path) -> None:
    picture(0, 20, 20).save(tmp_path / "a.png")
    left = tmp_path / "out/images.partial/old.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"")
    write_protected(take_in(tmp_path, 16), noise, bound=BOUND, output=tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")) == [
        "images",
        "images/a.png",
    ]


def test_the_colour_profile_stays_and_other_metadata_does_not(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    picture(0, 20, 20).save(tmp_path / "a.jpg", icc_profile=profile, exif=exif)
    write_protected(take_in(tmp_path, 16), noise, bound=BOUND, output=tmp_path / "out")
    with Image.open(tmp_path / "out/images/a.png") as protected:
        assert protected.info["icc_profile"] == profile
        assert dict(protected.getexif()) == {}


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    picture(0, 20, 20).save(tmp_path / "a.png")
    taken = take_in(tmp_path, 16)
    picture(0, 20, 21).save(tmp_path / "a.png")
    with pytest.raises(IntakeFault, match=r"a\.png was changed"):
        write_protected(taken, noise, bound=BOUND, output=tmp_path / "out")
    (tmp_path / "a.png").unlink()
    with pytest.raises(IntakeFault, match=r"a\.png was changed"):
        write_protected(taken, noise, bound=BOUND, output=tmp_path / "out")


def test_variants_are_what_they_are_called(tmp_path: Path) -> None:
    image = np.asarray(picture(0, 41, 30))
    assert set(VARIANTS) == {"released", "jpeg_75", "jpeg_50", "resized"}
    assert all(change(image).shape == image.shape for change in VARIANTS.values())
    assert np.array_equal(VARIANTS["released"](image), image)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    assert np.array_equal(VARIANTS["jpeg_75"](image), np.asarray(Image.open(buffer)))
    losses = [np.abs(recompress(image, quality).astype(int) - image).mean() for quality in (95, 75, 50)]
    assert losses == sorted(losses)
    board = np.indices((32, 32)).sum(0)[:, :, None].repeat(3, 2) % 2 * 255
    assert np.ptp(resize_and_back(board.astype(np.uint8))[8:24, 8:24]) <= 8  # the finest pattern does not come back
    assert resize_and_back(np.zeros((1, 1, 3), dtype=np.uint8)).shape == (1, 1, 3)


def test_survival_is_one_for_what_arrives_whole_and_counts_what_clipping_takes() -> None:
    clean = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    levels = noise(0, 4)
    whole = survival_of(clean, (clean.int() + levels).to(torch.uint8), levels)
    assert whole is not None
    assert (whole.norm, whole.cosine) == (1.0, 1.0)
    half = survival_of(clean, clean + 4, torch.full_like(levels, 8))
    assert half is not None
    assert (half.norm, half.cosine) == (0.5, 1.0)
    against = survival_of(clean, clean - 8, torch.full_like(levels, 8))
    assert against is not None
    assert (against.norm, against.cosine) == (1.0, -1.0)
    nothing = survival_of(clean, clean, levels)
    assert nothing is not None
    assert nothing.norm == 0
    assert survival_of(torch.full_like(clean, 255), clean, torch.full_like(levels, 8)) is None
