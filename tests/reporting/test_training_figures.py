"""Curves and histograms show the numbers that runs left, averaged over their seeds."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pydantic import ValidationError

from engine.reporting.inks import REFERENCE_COLOUR
from engine.reporting.readings import Curve, ViewDistances
from engine.reporting.results import Results
from engine.reporting.sheet import Sheet
from engine.reporting.training_figures import SHORT_DASHES, draw_training, draw_view_distances, shares

EDGES = (0.0, 0.5, 1.0, 1.5, 2.0)


@pytest.fixture
def measured(results: Results) -> Results:
    """Measures at the first and the last of three epochs; the released images agree better, the more so by seed."""
    for cell, curve in results.curves.items():
        aligned = np.array([0.4, np.nan, 0.2 - 0.1 * cell.seed])
        columns = {"alignment": aligned, "uniformity": aligned - 2, "clean_alignment": 2 * aligned}
        results.curves[cell] = curve._replace(measures={**columns, "clean_uniformity": aligned - 3})
    for (cell, name), accuracy in results.accuracies.items():
        found = ViewDistances(edges=EDGES, released=(3 - cell.seed, 1 + cell.seed, 0, 0), clean=(1, 2, 1, 0))
        results.accuracies[cell, name] = accuracy.model_copy(update={"view_distances": found})
    return results


def drawn(sheet: Sheet, start: str) -> tuple[Axes, list[str]]:
    """Draw the one panel whose title starts so, and return its axes and what its legend says."""
    (panel,) = (panel for panel in sheet.panels if panel.title.startswith(start))
    axes = Figure().add_subplot()
    return axes, [str(handle.get_label()) for handle in panel.draw(axes)]


def lines_of(axes: Axes) -> dict[tuple[str, bool], dict[float, float]]:
    """Return every line's points by its colour, and by whether it is dashed."""
    return {
        (str(line.get_color()), line.is_dashed()): dict(zip(*map(np.ndarray.tolist, line.get_data()), strict=True))
        for line in axes.lines
    }


def test_every_learner_has_a_panel_of_each_measure(measured: Results) -> None:
    measured.study = measured.study.model_copy(update={"victims": ("simclr", "byol")})
    titles = [panel.title.split(" (")[0] for panel in draw_training(measured).panels]
    names = ("training loss", "alignment", "uniformity")
    assert titles == [f"{victim}: {name}" for victim in ("simclr", "byol") for name in names]


@pytest.mark.parametrize(("name", "above"), [("alignment", 0.0), ("uniformity", -2.0)])
def test_measures_are_averaged_over_seeds_at_the_epochs_that_have_them(
    measured: Results, name: str, above: float
) -> None:
    axes, labels = drawn(draw_training(measured), f"simclr: {name}")
    lines = lines_of(axes)
    noise = next(colour for colour, _ in lines if colour != REFERENCE_COLOUR)
    # Seeds 0 and 1 of the noise end at 0.2 and 0.1, seeds 0 to 2 of the reference at 0.2, 0.1 and 0.
    assert lines[noise, False] == pytest.approx({1: 0.4 + above, 3: 0.15 + above})
    assert lines[REFERENCE_COLOUR, False] == pytest.approx({1: 0.4 + above, 3: 0.1 + above})
    clean = {"alignment": (0.8, 0.3), "uniformity": (0.4 - 3, 0.15 - 3)}[name]
    assert lines[noise, True] == pytest.approx({1: clean[0], 3: clean[1]})
    assert len(lines) == 3  # the reference's images are their own originals
    assert labels == ["clean", "noise", "released images", "their clean originals"]
    assert len(axes.collections) == 3  # a band for each line
    band = axes.collections[1].get_paths()[0].vertices  # of the noise's released images
    assert band[band[:, 0] == 1][:, 1] == pytest.approx(0.4 + above)
    deviation = np.std([0.2, 0.1], ddof=1)
    assert {*band[band[:, 0] == 3][:, 1].round(6)} == {
        *np.round([0.15 + above - deviation, 0.15 + above + deviation], 6)
    }


def test_the_loss_is_there_at_every_epoch_and_of_released_images_alone(measured: Results) -> None:
    axes, _ = drawn(draw_training(measured), "simclr: training loss")
    lines = lines_of(axes)
    assert {dashed for _, dashed in lines} == {False}
    assert lines[REFERENCE_COLOUR, False] == {1: 3.0, 2: 2.0, 3: 2.0}


def test_curves_of_an_older_version_have_a_loss_alone(results: Results) -> None:
    assert [panel.title for panel in draw_training(results).panels] == ["simclr: training loss"]
    _, labels = drawn(draw_training(results), "simclr: training loss")
    assert labels[:2] == ["clean", "noise"]


def test_without_any_distance_there_is_no_sheet(results: Results) -> None:
    assert draw_view_distances(results) is None


def test_histograms_are_shares_averaged_over_seeds(measured: Results) -> None:
    axes, labels = drawn(draw_view_distances(measured), "simclr")
    *_, filled, outline = axes.patches
    # Of four images, three and two are in the first bin: 75 % and 50 %; a row is a tenth higher than its highest bar.
    highest = 62.5 + np.std([75, 50], ddof=1)
    base = -1.1 * highest
    assert (filled.get_data().values - base).tolist() == pytest.approx([62.5, 37.5, 0, 0])
    assert (outline.get_data().values - base).tolist() == pytest.approx([25, 50, 25, 0])
    assert filled.get_data().baseline == outline.get_data().baseline == pytest.approx(base)
    assert filled.get_data().edges.tolist() == list(EDGES)
    assert axes.get_xlim() == (0, 1.5)
    assert labels[1] == "their clean originals"
    band = axes.collections[-1].get_paths()[0].vertices
    assert band[:, 1].max() - base == pytest.approx(highest)


def test_originals_that_could_not_be_matched_are_not_drawn(measured: Results) -> None:
    for key, accuracy in measured.accuracies.items():
        assert accuracy.view_distances is not None
        alone = accuracy.view_distances.model_copy(update={"clean": None})
        measured.accuracies[key] = accuracy.model_copy(update={"view_distances": alone})
    axes, _ = drawn(draw_view_distances(measured), "simclr")
    assert len(axes.patches) == 2  # a poison each


def test_every_poison_has_a_row_with_a_histogram_or_a_word(measured: Results) -> None:
    assert all(accuracy.view_distances for accuracy in measured.accuracies.values())
    for (cell, downstream), accuracy in measured.accuracies.items():
        if cell.poison == "noise":
            changed = accuracy.model_copy(update={"view_distances": None})
            measured.accuracies[cell, downstream] = changed
    axes, _ = drawn(draw_view_distances(measured), "simclr")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clean", "noise"]
    (word,) = axes.texts
    assert word.get_text() == "not measured yet"
    rows = axes.get_yticks()
    assert rows[1] < word.get_position()[1] < rows[0]


@pytest.mark.parametrize(
    ("counts", "means", "deviations"),
    [([], [], []), ([(1, 3)], [25, 75], [0, 0]), ([(1, 3), (3, 1)], [50, 50], [1250**0.5, 1250**0.5])],
)
def test_shares(counts: list[Sequence[int]], means: list[float], deviations: list[float]) -> None:
    mean, deviation = shares(counts)
    assert mean.tolist() == pytest.approx(means)
    assert deviation.tolist() == pytest.approx(deviations)


@pytest.mark.parametrize(
    "changed", [{"released": (1, 2)}, {"clean": (0, 0, 0, 0)}, {"released": (1, -1, 2, 2)}, {"edges": (0.0, 2.0)}]
)
def test_histograms_that_do_not_fit_their_edges_are_refused(changed: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError):
        ViewDistances.model_validate({"edges": EDGES, "released": (1, 2, 3, 4), "clean": None, **changed})


def test_both_sheets_decode_and_are_the_same_twice(measured: Results) -> None:
    for draw in (draw_training, draw_view_distances):
        png = draw(measured).png()
        image = Image.open(io.BytesIO(png))
        assert min(image.size) > 200
        assert np.asarray(image).std() > 5
        assert png == draw(dataclasses.replace(measured)).png()


def test_clean_dashes_are_no_poisons_dashes(measured: Results) -> None:
    axes, _ = drawn(draw_training(measured), "simclr: alignment")
    (dashed,) = (line for line in axes.lines if line.is_dashed())
    on, off = (length / dashed.get_linewidth() for length in dashed._dash_pattern[1])
    assert (on, off) == pytest.approx(SHORT_DASHES[1])


def test_a_measure_that_no_epoch_has_is_absent() -> None:
    epochs = np.arange(1, 4)
    curve = Curve(epochs, np.ones(3), {"alignment": np.full(3, np.nan), "uniformity": np.array([np.nan, 2.0, np.nan])})
    assert curve.measured("alignment") is None
    assert curve.measured("clean_alignment") is None
    found = curve.measured("uniformity")
    assert found is not None
    assert (found.epochs.tolist(), found.losses.tolist()) == ([2], [2.0])
