"""Images under defenses: of the right poison, in the right order, and no defense trains anything for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from engine.protocols import Defense, DefenseContext, ImageSet, Victim
from engine.reporting.defended import change_images, defended, draw_defended
from engine.reporting.pictures import LARGEST, image_panel
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sheet import ABOVE, BELOW
from engine.spec import DefenseSpec, Position
from engine.training.defending import ImageDefense

POSITIONS: tuple[Position, ...] = ("dataset", "batch", "before_view", "after_view")


def invert(images: Tensor, generator: torch.Generator) -> Tensor:
    return 1 - images


def scatter(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(images.shape, generator=generator)


class Halving(Defense):
    """A change of pixels in two places, of a class of its own."""

    def on_batch(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        return images_BCHW / 2

    def on_view(self, draw: Callable[[Tensor], Tensor], images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        return draw(images_BCHW) / 2


class Labelling(Defense):
    """Adds labels with a network that it would have to train, and acts inside the objective."""

    changes_dataset = True

    def on_dataset(self, images: ImageSet, context: DefenseContext) -> ImageSet:
        raise AssertionError("a report trains nothing")

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        raise AssertionError("a report trains nothing")


BUILT: dict[str, Defense] = {
    "none": Defense(),
    "scatter": ImageDefense(scatter, "batch"),
    "label": Labelling(),
    "invert": ImageDefense(invert, "dataset"),
    "halve": Halving(),
    "mix": Defense(),
}


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that gives results some of the defenses above; the kind is the name."""
    monkeypatch.setattr("engine.plugins.build", lambda group, spec: BUILT[spec.kind])

    def guarded(results: Results, *names: str) -> None:
        results.defenses = {name: DefenseSpec(kind=name) for name in names}

    return guarded


def preview_of(facts: PoisonFacts, count: int, side: int = 8) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(0).integers(0, 248, (count, 3, side, side), dtype=np.uint8)
    return {"clean": drawn, "poisoned": drawn + np.uint8(0 if facts.is_reference else 7)}


@pytest.mark.parametrize("position", POSITIONS)
def test_a_change_of_pixels_is_shown_wherever_it_stands_to_the_grey_level(position: Position) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    before = levels.copy()
    found = change_images(ImageDefense(invert, position), levels, "invert")
    assert found is not None
    assert found.dtype == np.uint8
    assert np.array_equal(found, 255 - levels)
    same = change_images(ImageDefense(lambda images, _: images, position), levels, "same")
    assert same is not None
    assert np.array_equal(same, levels)
    assert np.array_equal(levels, before)


def test_other_defenses_are_asked_for_a_batch_and_a_view_and_for_nothing_else() -> None:
    levels = np.full((2, 3, 4, 4), 200, np.uint8)
    halved = change_images(Halving(), levels, "halve")
    assert halved is not None
    assert np.array_equal(halved, np.full_like(levels, 50))
    assert change_images(Labelling(), levels, "label") is None


def test_rows_are_in_the_studys_order_and_what_has_none_is_named(results: Results, guard: Callable[..., None]) -> None:
    facts = results.poisons["noise"]
    results.poisons["noise"] = dataclasses.replace(facts, preview=preview_of(facts, 2))
    guard(results, "scatter", "none", "label", "invert", "mix", "halve")
    shown = defended(results)
    assert shown is not None
    assert shown.poison == "noise"
    assert shown.classes == ("cat", "dog")
    assert list(shown.rows) == ["scatter", "none", "invert", "halve"]
    assert shown.left_out == ("label", "mix")
    assert shown.note.endswith("before the objective: label, mix.")
    preview = results.poisons["noise"].preview
    assert preview is not None
    released = preview["poisoned"].transpose(0, 2, 3, 1)
    assert np.array_equal(shown.rows["none"], released)
    assert np.array_equal(shown.rows["invert"], 255 - released)


def test_a_study_without_an_undefended_row_shows_the_images_first(results: Results, guard: Callable[..., None]) -> None:
    guard(results, "invert", "mix")
    shown = defended(results)
    assert shown is not None
    assert list(shown.rows) == ["as released", "invert"]
    assert np.array_equal(shown.rows["as released"], 255 - shown.rows["invert"])


def test_the_first_attack_that_is_there_is_shown_else_the_clean_images(
    results: Results, guard: Callable[..., None]
) -> None:
    guard(results, "none", "invert")
    results.poisons["later"] = dataclasses.replace(results.poisons["noise"], name="later")
    for there, expected in (("noise", "noise"), ("later", "later"), ("clean", "clean")):
        shown = defended(results)
        assert shown is not None
        assert shown.poison == expected
        results.poisons[there] = dataclasses.replace(results.poisons[there], preview=None)
    assert defended(results) is None


@pytest.mark.parametrize("names", [("none",), ("invert",), ("none", "mix"), ("label", "mix")])
def test_there_is_no_picture_of_one_defense_or_of_no_change(
    results: Results, guard: Callable[..., None], names: tuple[str, ...]
) -> None:
    guard(results, *names)
    assert defended(results) is None


def test_draws_are_the_same_whatever_the_other_defenses_are(results: Results, guard: Callable[..., None]) -> None:
    drawn = []
    for names in (("none", "scatter"), ("none", "scatter"), ("halve", "invert", "scatter", "none")):
        guard(results, *names)
        shown = defended(results)
        assert shown is not None
        drawn.append(shown.rows["scatter"])
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])
    assert drawn[0].std() > 30


def test_ten_classes_are_shown_and_large_images_thinned_after_the_change(
    results: Results, guard: Callable[..., None]
) -> None:
    facts = results.poisons["noise"]
    preview = preview_of(facts, 12, side=96)
    results.poisons["noise"] = dataclasses.replace(facts, preview=preview)
    guard(results, "none", "scatter")
    shown = defended(results)
    assert shown is not None
    assert shown.rows["none"].shape == (10, 48, 48, 3)
    whole = change_images(BUILT["scatter"], preview["poisoned"][:10], "scatter")
    assert whole is not None
    assert np.array_equal(shown.rows["scatter"], whole.transpose(0, 2, 3, 1)[:, ::2, ::2])
    assert "one of every 2" in shown.thinning


def test_the_sheet_is_the_same_twice_and_names_rows_columns_and_what_is_left_out(
    results: Results, guard: Callable[..., None]
) -> None:
    guard(results, "none", "scatter", "invert", "mix")
    shown = defended(results)
    assert shown is not None
    first, second = draw_defended(shown), draw_defended(shown)
    assert first.png() == second.png()
    (panel,) = first.panels
    assert panel.title.startswith("noise")
    axes = Figure().add_subplot()
    panel.draw(axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "scatter", "invert"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert axes.get_xlabel().replace("\n", " ") == shown.note


def test_a_few_images_do_not_fill_the_sheet_and_many_do() -> None:
    def panel_of(count: int) -> tuple[float, Any]:
        panel = image_panel("", {"a": np.zeros((count, 4, 4, 3), np.uint8)}, ["x"] * count)
        axes = Figure().add_subplot()
        panel.draw(axes)
        return panel.height - ABOVE - BELOW, axes.get_xlim()

    height, (left, right) = panel_of(2)
    assert height == pytest.approx(LARGEST)
    assert right - left > 2 * (2 * 4 + 2)  # the images take less than half of the width
    height, (left, right) = panel_of(10)
    assert height < LARGEST
    assert right - left == pytest.approx(10 * 4 + 9 * 2)
