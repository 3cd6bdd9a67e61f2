"""Decoding of image files: every mode, format and orientation, made with Pillow and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from engine.images import DatasetFault, decode, decode_file
from engine.randomness import stream

COLOR = (200, 100, 50)
LUMA = 124  # of COLOR: 0.299 R + 0.587 G + 0.114 B


def noise(width: int, height: int) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=stream(0, "test"), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "gif", "tif", "ppm", "jpg", "jpeg"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"one.{suffix}"
    settings = {"webp": {"lossless": True}, "jpg": {"quality": 95}, "jpeg": {"quality": 95}}.get(suffix, {})
    Image.new("RGB", (20, 20), COLOR).save(file, **settings)
    decoded = decode_file(file, 16)
    assert decoded.shape == (3, 16, 16)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - np.array(COLOR)[:, None, None]).max() <= 2


def deep(level: int) -> Image.Image:
    return Image.fromarray(np.full((20, 20), level, dtype=np.uint16))


def palette_with_hole() -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, *COLOR])
    image.info["transparency"] = b"\xff\x00"  # the second colour is invisible
    return image


MODES = {
    "rgb": (Image.new("RGB", (20, 20), COLOR), "png", COLOR),
    "grey": (Image.new("L", (20, 20), 77), "png", (77,) * 3),
    "bilevel": (Image.new("1", (20, 20), 1), "png", (255,) * 3),
    "palette": (Image.new("RGB", (20, 20), COLOR).quantize(4), "png", COLOR),
    "palette gif": (Image.new("RGB", (20, 20), COLOR).quantize(4), "gif", COLOR),
    "palette with a transparent entry": (palette_with_hole(), "png", (255,) * 3),
    "opaque rgba": (Image.new("RGBA", (20, 20), (*COLOR, 255)), "png", COLOR),
    "invisible rgba": (Image.new("RGBA", (20, 20), (*COLOR, 0)), "png", (255,) * 3),
    "half visible grey": (Image.new("LA", (20, 20), (0, 128)), "png", (127,) * 3),
    "rgba webp": (Image.new("RGBA", (20, 20), (*COLOR, 0)), "webp", (255,) * 3),
    "cmyk": (Image.new("RGB", (20, 20), COLOR).convert("CMYK"), "tif", COLOR),
    "cmyk jpeg": (Image.new("RGB", (20, 20), COLOR).convert("CMYK"), "jpg", COLOR),
    "ycbcr": (Image.new("RGB", (20, 20), COLOR).convert("YCbCr"), "tif", COLOR),
    "sixteen bits, black": (deep(0), "png", (0,) * 3),
    "sixteen bits, middle": (deep(32768), "png", (128,) * 3),
    "sixteen bits, white": (deep(65535), "tif", (255,) * 3),
    "thirty-two bits with sixteen used": (Image.new("I", (20, 20), 65535), "tif", (255,) * 3),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str) -> None:
    image, suffix, expected = MODES[name]
    file = tmp_path / f"one.{suffix}"
    image.save(file)
    decoded = decode_file(file, 16).astype(int)
    assert np.abs(decoded - np.array(expected)[:, None, None]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("L", (16, 16), 0)
    upright.paste(255, (0, 0, 8, 4))  # not symmetric under any turn or flip
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if back is None else upright.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "one.png", exif=exif)
    assert np.array_equal(decode_file(tmp_path / "one.png", 16)[0], np.asarray(upright))


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 41), (33, 47), (16, 16), (5, 9), (300, 17)])
def test_sides_and_crop_are_torchvisions(tmp_path: Path, width: int, height: int) -> None:
    image = noise(width, height)
    image.save(tmp_path / "one.png")
    theirs = Compose([Resize(16, InterpolationMode.BILINEAR), CenterCrop(16)])(image)
    assert np.array_equal(decode_file(tmp_path / "one.png", 16), np.asarray(theirs).transpose(2, 0, 1))


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "one.gif", save_all=True, append_images=frames[1:])
    assert decode_file(tmp_path / "one.gif", 16)[:, 0, 0].tolist() == [255, 0, 0]


def test_files_are_decoded_in_order_and_progress_is_told(tmp_path: Path) -> None:
    files = [tmp_path / f"{level}.png" for level in range(40)]
    for level, file in enumerate(files):
        Image.new("L", (8, 8), level).save(file)
    told: list[tuple[int, int]] = []
    images = decode(files, 8, lambda done, total, note: told.append((done, total)))
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == list(range(40))
    assert told == [(done, 40) for done in range(1, 41)]


def test_unreadable_files_are_all_named_in_one_error(tmp_path: Path) -> None:
    noise(30, 30).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    noise(30, 30).save(tmp_path / "good.jpg")
    broken = {
        "empty.png": b"",
        "text.jpg": b"not an image",
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": (tmp_path / "good.jpg").read_bytes()[:400],
        "scrambled.png": whole[:60] + bytes(len(whole) - 60),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    Image.new("F", (8, 8), 0.5).save(tmp_path / "float.tif")
    Image.new("I", (8, 8), 70000).save(tmp_path / "deep.tif")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    bad = {*broken, "float.tif", "deep.tif", "gone.png"}
    with pytest.raises(DatasetFault) as caught:
        decode([tmp_path / name for name in ("good.png", *sorted(bad), "good.jpg")], 16)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{len(bad)} of {len(bad) + 2} image files cannot be read; repair or remove:"
    assert {Path(line.strip().split(": ")[0]).name for line in lines[1:]} == bad
