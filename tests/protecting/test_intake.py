"""Intake of folders: all that can be read is, all that cannot is listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.images import class_folders, decode, list_files
from engine.protecting.intake import IntakeFault, Original, classes_of, take_in
from tests.protecting.folders import BROKEN, mixed_folder, picture


def original(taken: tuple[Original, ...], name: str) -> Original:
    return next(each for each in taken if each.name == name)


def test_a_mixed_folder_is_read_and_its_broken_files_are_listed_with_reasons(tmp_path: Path) -> None:
    folder = mixed_folder(tmp_path / "mixed")
    (folder / "notes.txt").write_text("left alone")
    (folder / ".hidden.png").write_text("not looked at")
    taken = take_in(folder, 16)
    assert len(taken.originals) == 12
    assert {each.name for each in taken.broken} == BROKEN
    assert all(each.reason and str(tmp_path) not in each.reason for each in taken.broken)
    assert taken.ignored == ("notes.txt",)
    assert taken.working_u8.shape == (12, 3, 16, 16)
    assert (taken.labels, taken.class_names) == (None, ())
    assert original(taken.originals, "moving.gif").frames == 2
    assert [each.name for each in taken.originals if each.is_transparent] == ["alpha.png"]


def test_every_readable_kind_shows_the_same_picture(tmp_path: Path) -> None:
    taken = take_in(mixed_folder(tmp_path / "mixed"), 16)
    reference = taken.working_u8[[each.name for each in taken.originals].index("plain.png")].int()
    for each, working in zip(taken.originals, taken.working_u8.int(), strict=True):
        if each.name in ("plain.jpg", "plain.webp", "palette.png", "still.gif", "moving.gif", "print.jpeg"):
            assert (working - reference).abs().float().mean() < 6, each.name
    grey = Image.fromarray(reference.to(torch.uint8).permute(1, 2, 0).numpy()).convert("L")
    for name in ("deep.png", "grey.tif"):
        working = taken.working_u8[[each.name for each in taken.originals].index(name)][0].int()
        assert (working - torch.from_numpy(np.array(grey)).int()).abs().max() <= 2, name


def test_the_orientation_is_applied_and_recorded(tmp_path: Path) -> None:
    turned = original(take_in(mixed_folder(tmp_path / "mixed"), 16).originals, "turned.JPG")
    assert (turned.width, turned.height, turned.orientation) == (25, 40, 6)


def test_the_working_image_is_the_whole_image(tmp_path: Path) -> None:
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste("white", (30, 0, 60, 20))
    wide.save(tmp_path / "wide.png")
    working = take_in(tmp_path, 8).working_u8[0, 0]
    assert working[:, :3].max() <= 8
    assert working[:, 5:].min() >= 247


def test_square_images_are_decoded_as_a_study_decodes_them_and_in_its_order(tmp_path: Path) -> None:
    for number, name in enumerate(["b/x.png", "a-1/2.png", "a/10.png", "a/9.png", "a/deep/1.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, 48, 48).save(tmp_path / name)
    taken, listed = take_in(tmp_path, 32), list_files(tmp_path, class_folders(tmp_path))
    assert [tmp_path / each.name for each in taken.originals] == list(listed.files)
    assert torch.equal(taken.labels, listed.labels)
    assert taken.class_names == listed.class_names
    assert torch.equal(taken.working_u8, decode(listed.files, 32))


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["a/1.png", "b/1.png"], ("a", "b")),
        (["a/1.png", "b/c/1.png"], ("a", "b")),
        (["a/1.png", "1.png"], ()),
        (["a/1.png", "a/2.png"], ()),
        (["1.png", "2.png"], ()),
    ],
)
def test_first_folders_are_classes_where_every_image_lies_in_one(names: list[str], classes: tuple[str, ...]) -> None:
    assert classes_of(names) == classes


def test_the_digest_knows_pixels_names_and_the_size(tmp_path: Path) -> None:
    picture(0, 20, 20).save(tmp_path / "a.png")
    first = take_in(tmp_path, 16).digest
    assert take_in(tmp_path, 16).digest == first
    assert take_in(tmp_path, 8).digest != first
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert take_in(tmp_path, 16).digest != first
    picture(1, 20, 20).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "a.png")
    assert take_in(tmp_path, 16).digest != first


def test_folders_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntakeFault, match="there is no folder"):
        take_in(tmp_path / "nowhere", 16)
    with pytest.raises(IntakeFault, match="holds no image"):
        take_in(tmp_path, 16)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    picture(0, 20, 20).save(tmp_path / "good.png")
    with pytest.raises(IntakeFault, match=r"3 of 4 image files .* more than half") as caught:
        take_in(tmp_path, 16)
    assert all(f"  {number}.png: " in str(caught.value) for number in range(3))
