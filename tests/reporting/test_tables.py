"""The statistics, against hand-computed cases and scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.reporting.readings import Accuracy
from engine.reporting.results import Results
from engine.reporting.tables import (
    MEASURES,
    UNTRAINED,
    accuracy_rows,
    by_setting,
    gain_removed,
    measures_of,
    probes_of,
    spread,
    summarise,
)
from engine.study import cells

Build = Callable[..., Results]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_the_spread_is_that_of_numpy_and_scipy(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if np.std(values) > 1e-6:
        sem = scipy.stats.sem(values)
        expected = scipy.stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=sem)
        assert (found.low, found.high) == pytest.approx(expected)


def test_one_value_has_no_deviation_and_none_has_no_mean() -> None:
    one = spread([3.5])
    assert one is not None
    assert (one.n, one.mean, one.sd, one.low, one.high) == (1, 3.5, None, None, None)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("clean", "poisoned", "floor", "share"),
    [
        (80.0, 50.0, 30.0, 60.0),
        (80.0, 80.0, 30.0, 0.0),
        (80.0, 30.0, 30.0, 100.0),
        (80.0, 20.0, 30.0, 120.0),  # worse than before training
        (80.0, 85.0, 30.0, -10.0),  # better than clean training
        (30.0, 10.0, 30.0, None),  # clean training adds nothing
        (25.0, 10.0, 30.0, None),
    ],
)
def test_the_share_of_the_gain_removed(clean: float, poisoned: float, floor: float, share: float | None) -> None:
    assert gain_removed(clean, poisoned, floor) == (None if share is None else pytest.approx(share))


def test_a_row_compares_a_cell_with_its_own_clean_twin_and_floor(results: Results) -> None:
    rows = {row.cell: row for row in accuracy_rows(results)}
    assert len(rows) == 9  # two poisons and the untrained network, three seeds each
    row = rows["noise-simclr-none-1"]
    assert (row.attack, row.seed, row.train_set, row.select) == ("noise", 1, "clean", "last")
    assert (row.linear, row.linear_drop, row.floor_linear) == (55.0, 27.0, 32.0)
    assert (row.knn, row.knn_drop, row.floor_knn) == (45.0, 26.0, 21.0)
    assert row.linear_gain_removed == pytest.approx(100 * 27 / 50)
    assert row.knn_gain_removed == pytest.approx(100 * 26 / 50)
    clean = rows["clean-simclr-none-1"]
    assert (clean.linear_drop, clean.linear_gain_removed) == (0.0, 0.0)
    floor = rows[f"{UNTRAINED}-simclr-1"]
    assert (floor.linear, floor.knn, floor.linear_drop, floor.attack) == (32.0, 21.0, None, "")


def with_heads(results: Results) -> Results:
    """The same results, of a learner whose own classifier is ten points better than its linear probe."""
    for key, found in results.accuracies.items():
        results.accuracies[key] = found.model_copy(update={"head": found.linear + 10})
    for floor, found in results.floors.items():
        results.floors[floor] = found.model_copy(update={"head": found.linear - 20})
    return results


def test_a_learners_own_classifier_is_compared_like_a_probe(results: Results) -> None:
    rows = {row.cell: row for row in accuracy_rows(with_heads(results))}
    row = rows["noise-simclr-none-1"]
    assert (row.head, row.head_drop, row.floor_head) == (65.0, 27.0, 12.0)
    assert row.head_gain_removed == pytest.approx(100 * 27 / 80)
    assert rows[f"{UNTRAINED}-simclr-1"].head == 12.0
    assert probes_of(rows.values()) == ("linear", "knn", "head")
    assert measures_of(rows.values()) == MEASURES
    noise = summarise([*rows.values()])[1]
    assert noise.spreads["head"].n == 2  # type: ignore[union-attr]


def test_where_no_learner_has_a_classifier_there_is_no_such_measure(results: Results) -> None:
    rows = accuracy_rows(results)
    assert {row.head for row in rows} == {row.floor_head for row in rows} == {row.head_drop for row in rows} == {None}
    assert probes_of(rows) == ("linear", "knn")
    assert not any("head" in measure for measure in measures_of(rows))


def test_a_head_that_only_one_of_two_has_is_not_compared(results: Results) -> None:
    with_heads(results)
    cell = next(cell for cell in cells(results.study) if cell.key == "clean-simclr-none-1")
    older = results.accuracies[cell, "pets"].model_dump(exclude={"head"})
    results.accuracies[cell, "pets"] = Accuracy.model_validate(older)
    row = next(row for row in accuracy_rows(results) if row.cell == "noise-simclr-none-1")
    assert (row.head, row.head_drop, row.head_gain_removed, row.floor_head) == (65.0, None, None, 12.0)


def test_a_missing_cell_has_a_row_without_numbers(results: Results) -> None:
    row = next(row for row in accuracy_rows(results) if row.cell == "noise-simclr-none-2")
    assert (row.linear, row.linear_drop, row.train_set) == (None, None, "")
    assert row.stage == "probe@noise-simclr-none-2-pets"


def test_a_missing_floor_leaves_the_drop_and_takes_the_gain(build_results: Build) -> None:
    rows = accuracy_rows(build_results({("clean", 0): (80.0, 70.0), ("noise", 0): (50.0, 45.0)}, {}))
    noise, floor = rows[1], rows[2]
    assert (noise.linear_drop, noise.linear_gain_removed, noise.floor_linear) == (30.0, None, None)
    assert (floor.linear, floor.stage) == (None, "floor@simclr-0-pets")


def test_without_a_clean_poison_nothing_is_compared(build_results: Build) -> None:
    results = build_results({("noise", 0): (50.0, 45.0)}, {0: (30.0, 20.0)}, kinds=("noise", "other"))
    assert results.reference is None
    row = accuracy_rows(results)[0]
    assert (row.linear, row.linear_drop, row.linear_gain_removed, row.floor_linear) == (50.0, None, None, 30.0)


def test_the_reference_is_the_poison_of_a_clean_attack_whatever_its_name(results: Results) -> None:
    assert results.reference == "clean"
    assert results.poisons["clean"].spec["kind"] == "clean"


@pytest.mark.parametrize("changed", [{"select": "best"}, {"train_set": "poisoned"}, {"numerics": 2}])
def test_accuracies_that_were_measured_in_different_ways_are_not_compared(
    results: Results, changed: dict[str, object]
) -> None:
    cell = next(cell for cell in cells(results.study) if cell.key == "noise-simclr-none-0")
    own = results.accuracies[cell, "pets"]
    results.accuracies[cell, "pets"] = Accuracy(**{**own.model_dump(), **changed})
    row = next(row for row in accuracy_rows(results) if row.cell == cell.key)
    assert (row.linear, row.linear_drop, row.floor_linear, row.linear_gain_removed) == (50.0, None, None, None)


def test_the_interval_of_a_drop_is_that_of_the_paired_t_test(build_results: Build) -> None:
    clean, noise = (80.0, 82.0, 90.0, 75.0), (50.0, 49.0, 61.0, 48.0)
    accuracies = {("clean", seed): (value, 60.0) for seed, value in enumerate(clean)}
    accuracies |= {("noise", seed): (value, 60.0) for seed, value in enumerate(noise)}
    summary = summarise(accuracy_rows(build_results(accuracies, {})))[1]
    expected = scipy.stats.ttest_rel(clean, noise).confidence_interval(0.95)
    drop = summary.spreads["linear_drop"]
    assert drop is not None
    assert (drop.n, drop.low, drop.high) == (4, pytest.approx(expected.low), pytest.approx(expected.high))
    assert drop.mean == pytest.approx(29.75)


def test_a_summary_counts_the_seeds_that_each_measure_has(results: Results) -> None:
    clean, noise, untrained = summarise(accuracy_rows(results))
    assert [s.spreads["linear"].n for s in (clean, noise, untrained)] == [3, 2, 3]  # type: ignore[union-attr]
    assert noise.missing == ("probe@noise-simclr-none-2-pets",)
    assert noise.protocols == ("clean · last",)
    assert untrained.poison == UNTRAINED
    assert clean.spreads["linear"].sd == pytest.approx(2.0)  # type: ignore[union-attr]


def test_a_drop_needs_both_cells_of_a_seed(results: Results) -> None:
    cell = next(cell for cell in cells(results.study) if cell.key == "clean-simclr-none-0")
    del results.accuracies[cell, "pets"]
    noise = summarise(accuracy_rows(results))[1]
    assert noise.spreads["linear"].n == 2  # type: ignore[union-attr]
    assert noise.spreads["linear_drop"].n == 1  # type: ignore[union-attr]


def test_poisons_are_gathered_with_the_untrained_network_of_their_setting(results: Results) -> None:
    groups = by_setting(summarise(accuracy_rows(results)))
    assert [s.poison for s in groups["simclr", "none", "pets"]] == ["clean", "noise", UNTRAINED]
