"""What defenses bring and cost, against loops over the cells and against differences that are known."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.reporting.board import UNKNOWN, Board
from engine.reporting.defenses import compare_defenses
from engine.reporting.readings import TrainingCost
from engine.reporting.results import FloorKey, Results, pretrain_stage
from engine.reporting.tables import accuracy_rows, summarise
from engine.reporting.wording import NOTHING
from engine.spec import DefenseSpec
from engine.study import Cell, StudySpec, cells
from tests.reporting.conftest import facts_of, judged

MINUS, TIME = "\N{MINUS SIGN}", "time per epoch (\N{MULTIPLICATION SIGN} none)"
POISONS = {"clean": "clean", "strong": "cp", "weak": "noise"}
KINDS = {"filter": "filter", "none": "none", "train": "train"}
LINEAR = {
    ("clean", "none"): 90.0,
    ("clean", "filter"): 86.0,
    ("clean", "train"): 91.0,
    ("strong", "none"): 40.0,
    ("strong", "filter"): 70.0,
    ("strong", "train"): 45.0,
    ("weak", "none"): 88.0,
    ("weak", "filter"): 85.5,
    ("weak", "train"): 88.0,
}
SEEDS = {"none": (0.0, 2.0), "filter": (0.0, 4.0), "train": (0.0, 2.0)}
"""What each of two seeds adds: the filter's differences from none are therefore 2 points apart."""
SECONDS = {"none": 10.0, "filter": 15.0, "train": 40.0}


def study(**changes: Any) -> StudySpec:
    values: dict[str, Any] = {
        "poisons": {name: {"attack": kind, "init": "zero"} for name, kind in POISONS.items()},
        "victims": ("simclr",),
        "defenses": tuple(KINDS),
        "downstream": ("pets",),
        "seeds": (0, 1),
        **changes,
    }
    return StudySpec(protocol="banked", name="guarded", dataset="pets", **values)


def results_of(spec: StudySpec) -> Results:
    """Everything measured: kNN five points below the linear probe, on toys twenty below, victim taught one above."""
    poisons = {name: facts_of(name, entry.attack) for name, entry in spec.poisons.items()}
    results = Results(spec, poisons, {name: DefenseSpec(kind=KINDS[name]) for name in spec.defenses})
    for cell in cells(spec):
        linear = LINEAR[cell.poison, cell.defense] + SEEDS[cell.defense][cell.seed] + (cell.victim == "taught")
        for downstream in spec.downstream:
            there = linear - 20 * (downstream == "toys")
            head = there + 3 if (cell.victim, downstream) == ("taught", "pets") else None
            results.accuracies[cell, downstream] = judged(there, there - 5, head=head)
        results.costs[pretrain_stage(cell)] = training_cost(SECONDS[cell.defense])
    for key in itertools.product(spec.victims, spec.seeds, spec.downstream):
        results.floors[FloorKey(*key)] = judged(20.0, 15.0)
    return results


def training_cost(seconds_per_epoch: float, device: str = "cpu") -> TrainingCost:
    return TrainingCost(
        seconds=3 * seconds_per_epoch, peak_memory_bytes=2**20, device=device, seconds_per_epoch=seconds_per_epoch
    )


@pytest.fixture
def guarded() -> Results:
    return results_of(study())


def tables_of(results: Results) -> list[Board]:
    return compare_defenses(results, summarise(accuracy_rows(results)))


def lines_of(results: Results) -> dict[str, tuple[str, ...]]:
    (board,) = tables_of(results)
    assert {len(line) for line in board.lines} == {len(board.headings)}
    return {line[0]: line[1:] for line in board.lines}


def test_a_row_a_defense_and_beside_every_accuracy_what_the_defense_changed(guarded: Results) -> None:
    (board,) = tables_of(guarded)
    assert (board.name, board.title) == ("defenses", "Defenses")
    assert board.headings == (
        "defense",
        *("clean (%)", "clean cost (points)", "strong (%)", "recovered (points)", "weak (%)", "recovered (points)"),
        TIME,
    )
    assert board.is_short
    assert board.lines == (
        ("filter", "88.0 ± 2.8", "3.0 ± 1.4", "72.0 ± 2.8", "31.0 ± 1.4", "87.5 ± 2.8", f"{MINUS}1.5 ± 1.4", "1.50"),
        ("none", "91.0 ± 1.4", NOTHING, "41.0 ± 1.4", NOTHING, "89.0 ± 1.4", NOTHING, "1.00"),
        ("train", "92.0 ± 1.4", f"{MINUS}1.0 ± 0.0", "46.0 ± 1.4", "5.0 ± 0.0", "89.0 ± 1.4", "0.0 ± 0.0", "4.00"),
    )


def test_records_hold_every_probe_of_every_cell(guarded: Results) -> None:
    (board,) = tables_of(guarded)
    assert len(board.records) == 3 * 3 * 2
    found = {(r["defense"], r["poison"], r["measure"]): r for r in board.records}
    one = found["filter", "strong", "knn"]
    assert (one["attack"], one["victim"], one["downstream"]) == ("cp", "simclr", "pets")
    assert (one["accuracy"], one["n"]) == (67.0, 2)
    assert (one["recovered"], one["recovered_n"], one["recovered_sd"]) == (31.0, 2, pytest.approx(2**0.5, abs=1e-4))
    margin = 12.7062  # the t quantile of one degree of freedom, with a standard error of exactly one point
    assert one["recovered_ci_low"] == pytest.approx(31 - margin, abs=1e-3)
    assert one["recovered_ci_high"] == pytest.approx(31 + margin, abs=1e-3)
    assert (one["clean_cost"], one["clean_cost_n"]) == (3.0, 2)
    assert (one["time_ratio"], one["time_n"]) == (1.5, 2)
    assert found["filter", "clean", "linear"]["recovered"] is None
    assert found["filter", "clean", "linear"]["clean_cost"] == 3.0
    assert [found["none", "strong", "linear"][name] for name in ("recovered", "clean_cost")] == [None, None]


def test_only_seeds_with_both_numbers_are_compared_and_n_is_said(guarded: Results) -> None:
    del guarded.accuracies[Cell("pets", "strong", "simclr", "none", 0), "pets"]
    del guarded.accuracies[Cell("pets", "weak", "simclr", "filter", 1), "pets"]
    del guarded.accuracies[Cell("pets", "weak", "simclr", "none", 0), "pets"]
    lines = lines_of(guarded)
    assert lines["filter"][2:4] == ("72.0 ± 2.8", "32.0 (n = 1)")
    assert lines["none"][2:4] == ("42.0 (n = 1)", NOTHING)
    assert lines["filter"][4:6] == ("85.5 (n = 1)", NOTHING)  # the seeds of the two have nothing in common


@pytest.mark.parametrize("changed", [{"select": "best"}, {"train_set": "poisoned"}, {"numerics": 2}])
def test_what_was_measured_in_another_way_is_not_subtracted(guarded: Results, changed: dict[str, Any]) -> None:
    key = (Cell("pets", "strong", "simclr", "filter", 1), "pets")
    guarded.accuracies[key] = guarded.accuracies[key].model_copy(update=changed)
    assert lines_of(guarded)["filter"][2:4] == ("72.0 ± 2.8", "30.0 (n = 1)")


def test_times_are_compared_cell_by_cell_on_one_kind_of_device(guarded: Results) -> None:
    for stage, cost in guarded.costs.items():
        if "-train-" in stage:
            guarded.costs[stage] = cost.model_copy(update={"device": "cuda"})
    factors = {("clean", 0): 1.0, ("clean", 1): 3.0, ("strong", 0): 2.0, ("strong", 1): 9.0}
    for (poison, seed), factor in factors.items():
        for defense in ("none", "filter"):
            seconds = 100.0 * (seed + 1) * (factor if defense == "filter" else 1)
            run = Cell("pets", poison, "simclr", defense, seed)
            guarded.costs[pretrain_stage(run)] = training_cost(seconds)
    del guarded.costs["pretrain@weak-simclr-none-0"]
    del guarded.costs["pretrain@weak-simclr-filter-1"]
    lines = lines_of(guarded)
    assert lines["filter"][-1] == "2.50 (n = 4)"  # the median of 1, 2, 3, 9
    assert lines["train"][-1] == UNKNOWN
    assert lines["none"][-1] == "1.00 (n = 5)"
    records = {(r["defense"], r["poison"]): r for r in tables_of(guarded)[0].records}
    assert (records["filter", "strong"]["time_ratio"], records["filter", "strong"]["time_n"]) == (5.5, 2)
    assert (records["filter", "weak"]["time_ratio"], records["filter", "weak"]["time_n"]) == (None, 0)


def test_a_study_without_an_undefended_cell_has_no_relative_columns_and_says_why() -> None:
    results = results_of(study(defenses=("filter", "train")))
    (board,) = tables_of(results)
    assert board.headings == ("defense", "clean (%)", "strong (%)", "weak (%)")
    assert board.lines[0] == ("filter", "88.0 ± 2.8", "72.0 ± 2.8", "87.5 ± 2.8")
    assert "no cell without a defense" in board.note
    assert "Recovered" not in board.note
    names = set(board.records[0])
    assert names == {
        *("poison", "attack", "victim", "defense", "downstream"),
        "measure",
        "accuracy",
        "accuracy_sd",
        "n",
    }


def test_a_study_without_clean_images_has_no_clean_cost() -> None:
    results = results_of(study(poisons={"strong": {"attack": "cp", "init": "zero"}}))
    (board,) = tables_of(results)
    assert board.headings == ("defense", "strong (%)", "recovered (points)", TIME)
    assert "Clean cost" not in board.note
    assert all(record["clean_cost"] is None and record["clean_cost_n"] == 0 for record in board.records)


def test_a_second_absence_of_a_defense_is_compared_with_the_first(guarded: Results) -> None:
    guarded.defenses["train"] = DefenseSpec(kind="none")
    assert guarded.undefended == "none"
    assert lines_of(guarded)["train"][3] == "5.0 ± 0.0"


def test_every_victim_and_downstream_set_has_a_table_in_the_measure_that_counts_there() -> None:
    results = results_of(study(victims=("simclr", "taught"), downstream=("toys", "pets")))
    boards = {board.name: board for board in tables_of(results)}
    assert {name: board.title for name, board in boards.items()} == {
        "defenses-simclr-toys": "Defenses of simclr on toys",
        "defenses-simclr-pets": "Defenses of simclr on pets",
        "defenses-taught-toys": "Defenses of taught on toys",
        "defenses-taught-pets": "Defenses of taught on pets",
    }
    accuracies = {name: board.lines[0][3] for name, board in boards.items()}
    assert accuracies == {
        "defenses-simclr-toys": "52.0 ± 2.8",
        "defenses-simclr-pets": "72.0 ± 2.8",
        "defenses-taught-toys": "53.0 ± 2.8",
        "defenses-taught-pets": "76.0 ± 2.8",  # its own classifier, three points above the linear probe
    }
    own = boards["defenses-taught-pets"]
    assert "own classifier" in own.note
    assert "linear probe" in boards["defenses-taught-toys"].note
    assert {record["measure"] for record in own.records} == {"linear", "knn", "head"}
    assert {record["measure"] for record in boards["defenses-taught-toys"].records} == {"linear", "knn"}
    assert [board.title for board in tables_of(results_of(study(downstream=("toys", "pets"))))] == [
        "Defenses on toys",
        "Defenses on pets",
    ]


def test_without_any_result_the_table_is_there_and_empty(guarded: Results) -> None:
    guarded.accuracies.clear()
    guarded.costs.clear()
    assert set(lines_of(guarded).values()) == {(*[NOTHING] * 6, UNKNOWN)}


MEASURED = st.dictionaries(
    st.tuples(st.sampled_from(["clean", "strong"]), st.sampled_from(["none", "filter"]), st.integers(0, 3)),
    st.tuples(st.integers(0, 10_000), st.integers(5, 10_000), st.sampled_from(["cpu", "cuda"]), st.integers(1, 2)),
)


@given(MEASURED)
def test_whatever_is_there_the_numbers_are_those_of_loops(
    measured: dict[tuple[str, str, int], tuple[int, int, str, int]],
) -> None:
    poisons = {name: {"attack": POISONS[name], "init": "zero"} for name in ("clean", "strong")}
    spec = study(poisons=poisons, defenses=("none", "filter"), seeds=(0, 1, 2, 3))
    facts = {name: facts_of(name, POISONS[name]) for name in poisons}
    results = Results(spec, facts, {name: DefenseSpec(kind=name) for name in spec.defenses})
    for (poison, defense, seed), (accuracy, seconds, device, numerics) in measured.items():
        cell = Cell("pets", poison, "simclr", defense, seed)
        results.accuracies[cell, "pets"] = judged(accuracy / 100, 50.0, numerics=numerics)
        results.costs[pretrain_stage(cell)] = training_cost(seconds / 10, device)
    gained: dict[str, list[float]] = {"clean": [], "strong": []}
    slower: dict[str, list[float]] = {"clean": [], "strong": []}
    for poison in ("clean", "strong"):
        for seed in range(4):
            if (poison, "none", seed) in measured and (poison, "filter", seed) in measured:
                before, after = measured[poison, "none", seed], measured[poison, "filter", seed]
                if before[3] == after[3]:
                    gained[poison].append((after[0] - before[0]) / 100)
                if before[2] == after[2]:
                    slower[poison].append(after[1] / before[1])
    (board,) = tables_of(results)
    record = next(
        r for r in board.records if (r["defense"], r["poison"], r["measure"]) == ("filter", "strong", "linear")
    )
    assert (record["recovered_n"], record["clean_cost_n"]) == (len(gained["strong"]), len(gained["clean"]))
    if gained["strong"]:
        assert record["recovered"] == pytest.approx(statistics.fmean(gained["strong"]), abs=2e-4)
    if gained["clean"]:
        assert record["clean_cost"] == pytest.approx(-statistics.fmean(gained["clean"]), abs=2e-4)
    if slower["strong"]:
        assert record["time_ratio"] == pytest.approx(statistics.median(slower["strong"]), abs=1e-4)
    both = [*slower["clean"], *slower["strong"]]
    shown = board.lines[1][-1]
    assert (shown == UNKNOWN) == (not both)
    if both:
        assert float(shown.split(" ")[0].replace(",", "")) == pytest.approx(statistics.median(both), abs=0.006)
