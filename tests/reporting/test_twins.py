"""What differs in one setting alone: pairs and families are found, their differences are those of loops over seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import scipy.stats

from engine.reporting.board import Board
from engine.reporting.boards import boards
from engine.reporting.results import Results
from engine.reporting.tables import accuracy_rows, summarise
from engine.reporting.twins import Pair, backbone_families, backbone_labels, branch_pairs
from engine.reporting.wording import NOTHING
from engine.spec import DefenseSpec
from engine.study import Cell, StudySpec, cells
from tests.reporting.conftest import facts_of, judged

STARTS = {
    "clean": "zero",
    "first": "uniform",
    "first_one": "uniform",
    "both": "first",
    "one": "first_one",
    "alone": "zero",
}
BRANCH = {"first": "dual", "first_one": "single", "both": "dual", "one": "single", "alone": "dual"}
LINEAR = {
    "clean": (90.0, 91.0, 92.0),
    "first": (60.0, 60.0, 60.0),
    "first_one": (64.0, 64.0, 64.0),
    "both": (40.0, 44.0, 45.0),
    "one": (50.0, 51.0, 58.0),
    "alone": (80.0, 80.0, 80.0),
}
SMALL: dict[str, Any] = {"kind": "resnet18", "width": 16, "stages": [1, 1]}


@pytest.fixture
def results() -> Results:
    """Two victims that differ in their backbone, the second five points worse; one that differs in its epochs too."""
    study = StudySpec(
        protocol="banked",
        name="twins",
        dataset="pets",
        poisons={name: {"attack": name, "init": init} for name, init in STARTS.items()},
        victims=("simclr", "wide", "longer"),
        defenses=("none",),
        downstream=("toys", "pets"),
        seeds=(0, 1, 2),
    )
    poisons = {}
    for name, init in STARTS.items():
        made = facts_of(name, "clean" if name == "clean" else "cp", init=init)
        spec = {**made.spec, **({"gradient": BRANCH[name]} if name in BRANCH else {})}
        spec |= {"rounds": 9} if name in ("first", "first_one") else {}
        poisons[name] = replace(made, spec=spec)
    found = Results(study, poisons, {"none": DefenseSpec(kind="none")})
    found.victims = {
        "simclr": {"kind": "simclr", "epochs": 9, "backbone": SMALL},
        "wide": {"kind": "simclr", "epochs": 9, "backbone": {**SMALL, "width": 64}},
        "longer": {"kind": "simclr", "epochs": 99, "backbone": {"kind": "vgg19"}},
    }
    for cell in cells(study):
        linear = LINEAR[cell.poison][cell.seed] - 5 * (cell.victim == "wide")
        for downstream in study.downstream:
            found.accuracies[cell, downstream] = judged(linear - 20 * (downstream == "toys"), 30.0)
    return found


def boards_of(results: Results) -> dict[str, Board]:
    return {board.name: board for board in boards(results, summarise(accuracy_rows(results)))}


def test_pairs_differ_in_their_branch_and_in_that_of_what_they_start_from_alone(results: Results) -> None:
    assert branch_pairs(results) == [Pair("first", "first_one"), Pair("both", "one")]
    results.poisons["one"] = replace(results.poisons["one"], init="uniform")
    assert branch_pairs(results) == [Pair("first", "first_one")]
    spec = {**results.poisons["first"].spec, "epsilon": 0.1}
    results.poisons["first"] = replace(results.poisons["first"], spec=spec)
    assert branch_pairs(results) == []
    assert "branches" not in boards_of(results)


def test_the_difference_of_branches_is_that_of_the_paired_t_test(results: Results) -> None:
    board = boards_of(results)["branches"]
    assert board.headings == (
        *("dual", "single", "victim", "dual (%)", "single (%)", "difference (points)", "interval", "n"),
    )
    lines = {line[:3]: line[3:] for line in board.lines}
    assert len(lines) == 2 * 3
    interval = scipy.stats.ttest_rel(LINEAR["one"], LINEAR["both"]).confidence_interval(0.95)
    shown = f"[{interval.low:.1f}, {interval.high:.1f}]".replace("-", "\N{MINUS SIGN}")
    assert lines["both", "one", "simclr"] == ("43.0 ± 2.6", "53.0 ± 4.4", "10.0 ± 3.0", shown, "3")
    assert lines["first", "first_one", "wide"] == ("55.0 ± 0.0", "59.0 ± 0.0", "4.0 ± 0.0", "[4.0, 4.0]", "3")
    assert len(board.records) == 2 * 3 * 2  # of every downstream set
    record = next(r for r in board.records if (r["dual"], r["victim"], r["downstream"]) == ("both", "simclr", "toys"))
    assert (record["single"], record["dual_accuracy"], record["single_accuracy"]) == ("one", 23.0, 33.0)
    assert (record["difference"], record["difference_n"]) == (10.0, 3)
    assert record["difference_ci_low"] == pytest.approx(interval.low, abs=1e-3)
    assert record["difference_ci_high"] == pytest.approx(interval.high, abs=1e-3)


def test_only_seeds_that_both_branches_have_are_compared(results: Results) -> None:
    del results.accuracies[Cell("pets", "one", "simclr", "none", 2), "pets"]
    key = Cell("pets", "both", "simclr", "none", 1), "pets"
    results.accuracies[key] = results.accuracies[key].model_copy(update={"select": "best"})
    lines = {line[:3]: line[3:] for line in boards_of(results)["branches"].lines}
    assert lines["both", "one", "simclr"] == ("43.0 ± 2.6", "50.5 ± 0.7 (n = 2)", "10.0", NOTHING, "1")
    for seed in range(3):
        results.accuracies.pop((Cell("pets", "one", "simclr", "none", seed), "pets"), None)
    lines = {line[:3]: line[3:] for line in boards_of(results)["branches"].lines}
    assert lines["both", "one", "simclr"][1:] == (NOTHING, NOTHING, NOTHING, "0")


def test_a_family_differs_in_its_backbone_alone(results: Results) -> None:
    assert backbone_families(results) == [["simclr", "wide"]]
    assert backbone_labels(results, ["simclr", "wide"]) == {"simclr": "resnet18 width 16", "wide": "resnet18 width 64"}
    assert backbone_labels(results, ["simclr", "longer"]) == {"simclr": "resnet18", "longer": "vgg19"}
    results.victims["wide"] = results.victims["simclr"]
    assert backbone_families(results) == []  # two names of one thing
    assert "backbones" not in boards_of(results)


def test_backbones_have_their_accuracy_and_their_paired_drop(results: Results) -> None:
    board = boards_of(results)["backbones"]
    assert board.headings[:5] == ("backbone", "victim", "clean (%)", "first (%)", "drop (points)")
    assert [line[:2] for line in board.lines] == [("resnet18 width 16", "simclr"), ("resnet18 width 64", "wide")]
    drops = [a - b for a, b in zip(LINEAR["clean"], LINEAR["both"], strict=True)]
    low, high = scipy.stats.t.interval(0.95, 2, loc=sum(drops) / 3, scale=scipy.stats.sem(drops))
    place = board.headings.index("both (%)")
    assert board.lines[1][2] == "86.0 ± 1.0"
    assert board.lines[1][place : place + 2] == ("38.0 ± 2.6", f"48.0 ± 1.7 [{low:.1f}, {high:.1f}]")
    assert {record["victim"] for record in board.records} == {"simclr", "wide"}
    assert len(board.records) == 2 * 2 * len(STARTS)
    record = next(r for r in board.records if (r["poison"], r["victim"], r["downstream"]) == ("both", "wide", "pets"))
    assert (record["backbone"], record["accuracy"], record["drop"], record["drop_n"]) == (
        *("resnet18 width 64", 38.0, 48.0, 3),
    )
