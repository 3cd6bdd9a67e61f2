"""Perturbations are shown as they are, and what is done to show them is said."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

from engine.reporting.pictures import GREY, MAGNIFICATION, pictures
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sections import picture_rows


def with_preview(facts: PoisonFacts, clean: np.ndarray, poisoned: np.ndarray) -> PoisonFacts:
    return dataclasses.replace(facts, preview={"clean": clean, "poisoned": poisoned})


def test_the_difference_is_magnified_around_mid_grey_and_clipped_honestly(results: Results) -> None:
    clean = np.full((2, 3, 4, 4), 100, np.uint8)
    poisoned = clean.copy()
    poisoned[0, 0, 0, 0] -= 3
    poisoned[1, 2, 1, 1] += 20  # 10 x 20 leaves the range of grey levels
    shown = pictures(with_preview(results.poisons["noise"], clean, poisoned))
    assert shown is not None
    assert shown.noise[0, 0, 0].tolist() == [GREY - 3 * MAGNIFICATION, GREY, GREY]
    assert shown.noise[1, 1, 1].tolist() == [GREY, GREY, 255]
    assert shown.clipped == 1 / clean.size
    assert "clipped" in shown.note
    assert shown.classes == ("cat", "dog")


def test_nothing_is_said_of_clipping_where_nothing_is_clipped(results: Results) -> None:
    shown = pictures(results.poisons["noise"])
    assert shown is not None
    assert shown.note == f"perturbation \N{MULTIPLICATION SIGN} {MAGNIFICATION} around mid-grey"


def test_at_most_ten_classes_and_every_other_pixel_of_a_large_image(results: Results) -> None:
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 256, (12, 3, 96, 96), dtype=np.uint8)
    shown = pictures(with_preview(results.poisons["noise"], clean, clean))
    assert shown is not None
    assert shown.clean.shape == (10, 48, 48, 3)
    assert "2 \N{MULTIPLICATION SIGN} 2 pixels" in shown.note
    assert np.array_equal(shown.clean[3], clean[3].transpose(1, 2, 0)[::2, ::2])
    assert shown.classes[0] == "class 0"  # the manifest names two classes, not twelve


def test_the_page_shows_every_class_clean_poisoned_and_the_perturbation(results: Results) -> None:
    (row,) = picture_rows(results)  # of noise; the clean poison changes nothing
    assert row["name"] == "noise"
    assert [name for name, *_ in row["tiles"]] == ["cat", "dog"]
    for _, *addresses in row["tiles"]:
        kinds, pictures_64 = zip(*(address.split(",") for address in addresses), strict=True)
        assert set(kinds) == {"data:image/png;base64"}
        pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) for picture in pictures_64]
        assert [picture.shape for picture in pixels] == [(4, 4, 3)] * 3
        assert [np.unique(picture).tolist() for picture in pixels] == [[100], [108], [GREY + 80]]


def test_a_missing_poison_has_no_pictures(results: Results) -> None:
    assert pictures(dataclasses.replace(results.poisons["noise"], preview=None)) is None
