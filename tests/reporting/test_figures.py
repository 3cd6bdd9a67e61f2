"""Figures decode, are the same twice, and draw the right numbers."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from engine.reporting.cost_figure import draw_cost
from engine.reporting.figures import draw_accuracy, spread_of
from engine.reporting.pictures import draw_perturbations
from engine.reporting.readings import Curve
from engine.reporting.results import Results
from engine.reporting.sheet import Panel, Sheet, draw_sheet
from engine.reporting.tables import accuracy_rows, summarise
from engine.reporting.training_figures import draw_training


def decoded(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def sheets(results: Results) -> list[Sheet]:
    summaries = summarise(accuracy_rows(results))
    cost = draw_cost(results, summaries)
    return [
        draw_accuracy(results, summaries),
        *([cost] if cost else []),
        draw_training(results),
        draw_perturbations(results),
    ]


def test_every_sheet_decodes_carries_no_metadata_and_is_the_same_twice(results: Results) -> None:
    for first, second in zip(sheets(results), sheets(results), strict=True):
        png = first.png()
        image = decoded(png)
        assert min(image.size) > 300
        assert image.info == {}
        assert np.asarray(image).std() > 5
        assert png == second.png()


def test_every_sheet_is_svg_of_the_same_measures_without_metadata_and_the_same_twice(results: Results) -> None:
    for first, second in zip(sheets(results), sheets(results), strict=True):
        svg = first.svg()
        root = ElementTree.fromstring(svg)
        inches = [float(root.attrib[side].removesuffix("pt")) / 72 for side in ("width", "height")]
        assert [round(160 * inch) for inch in inches] == pytest.approx(decoded(first.png()).size, abs=1)
        assert len([*root.iter("{http://www.w3.org/2000/svg}path")]) > 20  # letters are outlines
        assert not [*root.iter("{http://www.w3.org/2000/svg}text")]
        assert not re.search(rb"metadata|date|matplotlib v", svg, re.IGNORECASE)
        assert svg == first.svg() == second.svg()
        assert decoded(first.png()).size == decoded(second.png()).size


def test_nothing_of_a_users_settings_changes_a_figure(results: Results) -> None:
    before, before_svg = draw_training(results).png(), draw_training(results).svg()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "none"}):
        assert draw_training(results).png() == before
        assert draw_training(results).svg() == before_svg
        assert matplotlib.rcParams["font.size"] == 20


def test_a_study_without_results_still_has_figures(build_results: Callable[..., Results]) -> None:
    results = build_results({}, {0: (30.0, 20.0)})
    results.floors.clear()
    for facts in results.poisons.values():
        results.poisons[facts.name] = type(facts)(facts.name, facts.attack, facts.init, facts.spec)
    drawn = [decoded(sheet.png()) for sheet in sheets(results)]
    assert len(drawn) >= 3
    assert all(min(image.size) > 100 for image in drawn)


def test_panels_are_cut_out_of_the_sheet_and_hold_what_was_drawn_there() -> None:
    colours = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    panels = [
        Panel(f"panel {place}", lambda axes, colour=colour: axes.patch.set_facecolor(colour) or (), 1.5)
        for place, colour in enumerate(colours)
    ]
    sheet = draw_sheet(panels, title="three", columns=2)
    found = list(sheet.panel_pngs())
    assert [title for title, _ in found] == ["panel 0", "panel 1", "panel 2"]
    for (_, png), colour in zip(found, colours, strict=True):
        pixels = np.asarray(decoded(png))
        middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2 + 7]
        assert middle.tolist() == [255 * channel for channel in colour]


def test_bars_are_as_long_as_the_accuracies(results: Results) -> None:
    (panel,) = draw_accuracy(results, summarise(accuracy_rows(results))).panels
    axes = Figure().add_subplot()
    labels = [handle.get_label() for handle in panel.draw(axes)]
    widths = [round(bar.get_width(), 4) for bar in axes.patches]
    assert widths == [82.0, 72.0, 52.5, 45.0]  # clean, noise; linear, kNN
    dashed = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and line.get_linestyle() in ("--", ":")]
    assert [line.get_xdata()[0] for line in dashed] == [31.0, 21.0]
    assert "one seed" in labels
    assert "52.5 ± 3.5" in [text.get_text() for text in axes.texts]


def test_a_learners_own_classifier_has_a_third_bar(results: Results) -> None:
    for key, found in results.accuracies.items():
        results.accuracies[key] = found.model_copy(update={"head": found.linear + 10})
    for floor, found in results.floors.items():
        results.floors[floor] = found.model_copy(update={"head": 10.0})
    (panel,) = draw_accuracy(results, summarise(accuracy_rows(results))).panels
    axes = Figure().add_subplot()
    labels = [handle.get_label() for handle in panel.draw(axes)]
    assert [round(bar.get_width(), 4) for bar in axes.patches] == [82.0, 72.0, 92.0, 52.5, 45.0, 62.5]
    tops = sorted((round(bar.get_y(), 4), round(bar.get_y() + bar.get_height(), 4)) for bar in axes.patches)
    assert all(lower[1] <= upper[0] for lower, upper in itertools.pairwise(tops))
    assert {"own classifier", "untrained, own classifier"} <= set(labels)
    dashed = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and line.get_linestyle() == "-."]
    assert [line.get_xdata()[0] for line in dashed] == [10.0]


def test_losses_are_averaged_over_the_runs_that_reached_an_epoch() -> None:
    runs = [Curve(np.array([1, 2, 3]), np.array([4.0, 3.0, 2.0])), Curve(np.array([1, 2]), np.array([6.0, 3.0]))]
    epochs, means, sds = spread_of(runs)
    assert epochs.tolist() == [1, 2, 3]
    assert means.tolist() == [5.0, 3.0, 2.0]
    assert sds == pytest.approx([np.sqrt(2), 0.0, 0.0])
