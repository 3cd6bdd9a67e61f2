"""The worst case over learners, the transfer matrix and the fractions, on a study whose answers are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from engine.reporting.board import Board
from engine.reporting.boards import boards
from engine.reporting.learners import worst_cases
from engine.reporting.results import FloorKey, PoisonFacts, Results
from engine.reporting.sections import cards
from engine.reporting.tables import accuracy_rows, summarise
from engine.reporting.wording import NOTHING, budget_sentence
from engine.spec import DefenseSpec
from engine.study import Cell, StudySpec, cells
from tests.reporting.conftest import facts_of, judged

ALWAYS = {"worst_case", "published", "cost", "time"}
POISONS = {"clean": "clean", "strong": "cp", "cheap": "noise", "half": "cp", "rest": "clean_remainder"}
FRACTIONS = {"clean": 1.0, "strong": 1.0, "cheap": 1.0, "half": 0.5, "rest": 0.5}
COSTS = {"clean": 0, "strong": 9_000, "cheap": 0, "half": 9_000, "rest": 0}
LINEAR = {
    ("clean", "simclr"): 80.0,
    ("clean", "taught"): 70.0,
    ("strong", "simclr"): 40.0,
    ("strong", "taught"): 45.0,
    ("cheap", "simclr"): 78.0,
    ("cheap", "taught"): 69.0,
    ("half", "simclr"): 60.0,
    ("half", "taught"): 62.0,
    ("rest", "simclr"): 72.0,
    ("rest", "taught"): 64.0,
}
"""The linear accuracy of seed 0 without a defense; seed 1 has two points more, the filter takes three away."""


def value_of(cell: Cell) -> float:
    return LINEAR[cell.poison, cell.victim] + 2 * cell.seed - 3 * (cell.defense == "filter")


def facts(name: str) -> PoisonFacts:
    made = facts_of(name, POISONS[name], init="strong" if name == "half" else "zero")
    assert made.manifest is not None
    manifest = {**made.manifest, "image_views": COSTS[name]}
    if name == "rest":
        manifest |= {"max_difference_levels": 0, "perturbed": 0, "withheld": 40, "epsilon": 0.0}
    return replace(made, spec={**made.spec, "poison_fraction": FRACTIONS[name]}, manifest=manifest)


def study(**changes: tuple[object, ...]) -> StudySpec:
    return StudySpec(
        protocol="banked",
        name="wide",
        dataset="pets",
        poisons={name: {"attack": kind, "init": "zero"} for name, kind in POISONS.items()},
        **{
            "victims": ("simclr", "taught"),
            "defenses": ("none", "filter"),
            "downstream": ("toys", "pets"),
            "seeds": (0, 1),
            **changes,
        },
    )


def results_of(spec: StudySpec) -> Results:
    """Everything measured; the taught victim's own classifier is five points better, on its own classes alone."""
    defenses = {name: DefenseSpec(kind=name) for name in spec.defenses}
    results = Results(spec, {name: facts(name) for name in POISONS}, defenses)
    for cell in cells(spec):
        for downstream in spec.downstream:
            linear = value_of(cell) - 20 * (downstream == "toys")
            head = linear + 5 if (cell.victim, downstream) == ("taught", "pets") else None
            results.accuracies[cell, downstream] = judged(linear, 30.0, head=head)
    for victim, seed, downstream in itertools.product(spec.victims, spec.seeds, spec.downstream):
        head = 10.0 if (victim, downstream) == ("taught", "pets") else None
        results.floors[FloorKey(victim, seed, downstream)] = judged(25.0, 20.0, head=head)
    return results


@pytest.fixture
def wide() -> Results:
    return results_of(study())


def boards_of(results: Results) -> dict[str, Board]:
    return {board.name: board for board in boards(results, summarise(accuracy_rows(results)))}


def test_the_worst_case_is_the_best_of_all_learners(wide: Results) -> None:
    found = {case.facts.name: case for case in worst_cases(wide, summarise(accuracy_rows(wide)), "pets")}
    strong = found["strong"]
    assert strong.best is not None
    assert (strong.best.victim, strong.best.defense) == ("taught", "none")  # 45 + 5 of its own classifier, against 40
    assert (strong.accuracy.mean, strong.accuracy.n) == (51.0, 2)  # type: ignore[union-attr]
    assert strong.clean is not None
    assert strong.clean.victim == "simclr"  # 80, against 70 + 5
    assert (strong.measured, strong.learners) == (4, 4)
    toys = {case.facts.name: case for case in worst_cases(wide, summarise(accuracy_rows(wide)), "toys")}
    assert toys["strong"].accuracy.mean == 26.0  # type: ignore[union-attr]  # the linear probe: 45 + 1 - 20


def test_attacks_are_ranked_by_harm_and_by_cost_and_references_are_not(wide: Results) -> None:
    found = worst_cases(wide, summarise(accuracy_rows(wide)), "pets")
    ranks = {case.facts.name: (case.harm_rank, case.cost_rank) for case in found}
    assert ranks["clean"] == ranks["rest"] == (None, None)
    assert {name: ranks[name] for name in ("strong", "half", "cheap")} == {
        "strong": (1, 2),
        "half": (2, 3),
        "cheap": (3, 1),
    }


def test_cost_counts_the_poisons_that_one_starts_from(wide: Results) -> None:
    assert wide.image_views(wide.poisons["half"]) == 18_000
    wide.poisons["strong"] = replace(wide.poisons["strong"], manifest=None)
    assert wide.image_views(wide.poisons["half"]) is None


def test_the_worst_case_table_says_who_over_how_many_and_never_a_bare_mean(wide: Results) -> None:
    for downstream in ("pets", "toys"):
        del wide.accuracies[Cell("pets", "strong", "taught", "none", 1), downstream]
        for seed in (0, 1):
            del wide.accuracies[Cell("pets", "cheap", "simclr", "filter", seed), downstream]
    board = boards_of(wide)["worst_case"]
    lines = {line[0]: line[2:] for line in board.lines}
    clean = ("81.0 ± 1.4", "simclr under none")
    assert [line[0] for line in board.lines][:3] == ["strong", "half", "cheap"]
    assert lines["strong"][:5] == ("50.0 (n = 1)", "taught under none (own classifier)", *clean, "4")
    assert lines["cheap"][:5] == ("79.0 ± 1.4", "simclr under none", *clean, "3 of 4")
    assert lines["rest"][0] == "73.0 ± 1.4"
    assert lines["rest"][-2:] == (NOTHING, NOTHING)
    assert {len(line) for line in board.lines} == {len(board.headings)}
    assert len(board.records) == 2 * len(POISONS)  # of every downstream set
    record = next(r for r in board.records if (r["poison"], r["downstream"]) == ("half", "pets"))
    assert (record["victim"], record["measure"], record["accuracy"], record["n"]) == ("taught", "head", 68.0, 2)
    assert (record["clean_victim"], record["clean_accuracy"], record["harm_rank"]) == ("simclr", 81.0, 2)


def test_the_transfer_matrix_has_a_row_a_poison_and_a_column_a_victim_and_set(wide: Results) -> None:
    board = boards_of(wide)["transfer"]
    assert board.headings == (
        *("poison", "defense"),
        *("simclr on toys", "simclr on pets", "taught on toys", "taught on pets (own classifier)"),
    )
    lines = {line[:2]: line[2:] for line in board.lines}
    assert lines["strong", "filter"] == ("18.0 ± 1.4", "38.0 ± 1.4", "23.0 ± 1.4", "48.0 ± 1.4")
    assert lines["untrained", NOTHING] == ("25.0 ± 0.0", "25.0 ± 0.0", "25.0 ± 0.0", "10.0 ± 0.0")
    assert len(board.lines) == 2 * len(POISONS) + 1
    assert len(board.records) == 4 * len(board.lines)
    record = next(r for r in board.records if (r["poison"], r["victim"], r["downstream"]) == ("rest", "taught", "pets"))
    assert (record["measure"], record["accuracy"], record["defense"]) == ("head", 70.0, "none")


@pytest.mark.parametrize(
    ("changes", "headings"),
    [
        ({"defenses": ("none",), "downstream": ("pets",)}, ("poison", "simclr", "taught (own classifier)")),
        ({"defenses": ("none",), "victims": ("simclr",)}, ("poison", "on toys", "on pets")),
    ],
)
def test_an_axis_of_one_value_is_left_out(changes: dict[str, tuple[object, ...]], headings: tuple[str, ...]) -> None:
    assert boards_of(results_of(study(**changes)))["transfer"].headings == headings


def test_one_victim_on_one_set_has_no_transfer_and_one_fraction_no_fractions() -> None:
    results = results_of(study(victims=("simclr",), downstream=("pets",)))
    assert set(boards_of(results)) == {*ALWAYS, "fraction", "defenses"}
    for name, found in results.poisons.items():
        results.poisons[name] = replace(found, spec={**found.spec, "poison_fraction": 1.0})
    assert set(boards_of(results)) == {*ALWAYS, "defenses"}


def test_a_study_of_another_data_set_says_why_nothing_published_stands_beside_it(wide: Results) -> None:
    board = boards_of(wide)["published"]
    assert (board.headings, board.lines, board.records) == ((), (), [])
    assert board.note == (
        "He, Zha & Katabi 2023 published accuracies on data sets of kind cifar10; this study is on pets, of kind "
        "folder, of which no published figure is known."
    )
    for name, found in wide.poisons.items():
        wide.poisons[name] = replace(found, manifest=None)
    assert boards_of(wide)["published"].note.endswith("on pets, and of what kind that is no poison is there to say.")


def test_a_study_of_one_defense_has_no_table_of_defenses() -> None:
    assert set(boards_of(results_of(study(defenses=("none",))))) == {*ALWAYS, "transfer", "fraction"}


def test_fractions_stand_beside_what_the_clean_remainder_teaches(wide: Results) -> None:
    board = boards_of(wide)["fraction"]
    assert board.headings == ("victim", "defense", "perturbed (%)", "strong", "clean remainder")
    lines = {line[:3]: line[3:] for line in board.lines}
    assert lines["simclr", "none", "0"] == ("81.0 ± 1.4", "81.0 ± 1.4")
    assert lines["simclr", "none", "50"] == ("61.0 ± 1.4", "73.0 ± 1.4")
    assert lines["simclr", "none", "100"] == ("41.0 ± 1.4", NOTHING)
    assert lines["taught", "filter", "50"] == ("65.0 ± 1.4", "67.0 ± 1.4")
    assert len(board.lines) == 4 * 3
    assert {record["poison"] for record in board.records} == {"strong", "half", "rest"}  # one fraction is no curve
    record = next(r for r in board.records if (r["poison"], r["victim"], r["defense"]) == ("rest", "simclr", "none"))
    assert (record["poison_fraction"], record["accuracy"]) == (0.5, 73.0)


def test_a_card_is_of_the_learner_that_suffers_least_beside_the_clean_best(wide: Results) -> None:
    found = {card["name"]: card for card in cards(wide, summarise(accuracy_rows(wide)))}
    strong = found["strong"]
    assert strong["marks"] == {
        "value": (51.0, "51.0 ± 1.4"),
        "clean": (81.0, "81.0 ± 1.4"),
        "floor": (10.0, "10.0 ± 0.0"),
    }
    sentence = strong["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    assert sentence.startswith(
        "Even taught under none, the learner that suffers least, reaches 51.0 ± 1.4 % with its own classifier "
        "(linear 46.0 ± 1.4 %, kNN 30.0 ± 0.0 %, mean ± standard deviation of 2 seeds), 25.0 points below clean "
    )
    assert found["rest"]["budget"] == "Not a pixel differs from the original images, of which 40 of 80 are withheld."


def test_what_is_withheld_is_said_in_full(wide: Results) -> None:
    assert "withheld" in budget_sentence(wide.poisons["rest"])
    assert "withheld" not in budget_sentence(wide.poisons["strong"])


def test_a_study_without_results_has_boards_of_nothing(wide: Results) -> None:
    wide.accuracies.clear()
    wide.floors.clear()
    found = boards_of(wide)
    defenses = {f"defenses-{victim}-{downstream}" for victim in ("simclr", "taught") for downstream in ("toys", "pets")}
    assert set(found) == {*ALWAYS, "transfer", "fraction", *defenses}
    assert all(line[2] == line[4] == NOTHING for line in found["worst_case"].lines)
    assert all(record["n"] == 0 for name, board in found.items() if name != "cost" for record in board.records)
