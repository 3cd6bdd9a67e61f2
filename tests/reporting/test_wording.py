"""What people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from engine.reporting.results import Results
from engine.reporting.tables import Spread, accuracy_rows, summarise
from engine.reporting.wording import (
    COLUMNS,
    NOTHING,
    budget_note,
    budget_sentence,
    cell,
    count_of,
    headline,
    interval,
    mean_and_sd,
    missing_note,
    number,
)

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(44.94, 1, "44.9"), (-2.5, 1, f"{MINUS}2.5"), (-0.04, 1, "0.0"), (-0.4, 0, "0"), (1234.0, 0, "1,234")],
)
def test_a_number_has_a_true_minus_sign_and_no_negative_zero(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_several_seeds_never_show_a_bare_mean() -> None:
    assert mean_and_sd(Spread(3, 44.94, 0.31, 44.0, 45.9)) == "44.9 ± 0.3"
    assert mean_and_sd(Spread(1, 44.94)) == "44.9"
    assert interval(Spread(3, 44.94, 0.31, -1.0, 45.9)) == f"[{MINUS}1.0, 45.9]"
    assert interval(Spread(1, 44.94)) == ""
    assert mean_and_sd(None) == NOTHING


def test_a_drop_carries_its_interval_and_its_own_n(results: Results) -> None:
    clean, noise, untrained = summarise(accuracy_rows(results))
    drop = COLUMNS[1]
    assert drop.measure == "linear_drop"
    value, beside = cell(noise, drop, "clean")
    assert value == "28.5 ± 2.1"
    assert beside.startswith("[")
    assert cell(clean, drop, "clean") == cell(untrained, drop, "clean") == (NOTHING, "")
    assert (count_of(clean), count_of(noise)) == ("3", "2 of 3")


def test_n_is_shown_where_it_is_not_the_rows(results: Results) -> None:
    cell_of_clean = next(key for key in results.accuracies if key[0].key == "clean-simclr-none-0")
    del results.accuracies[cell_of_clean]
    noise = summarise(accuracy_rows(results))[1]
    assert cell(noise, COLUMNS[1], "clean") == ("27.0", "n = 1")


def test_headlines_give_accuracy_drop_and_share(build_results: Callable[..., Results]) -> None:
    results = build_results({("clean", 0): (80.0, 70.0), ("noise", 0): (50.0, 45.0)}, {0: (30.0, 20.0)})
    clean, noise, _ = summarise(accuracy_rows(results))
    assert headline(clean, "simclr", "linear", is_reference=True, is_least=False) == (
        "Trained on clean images, simclr reaches 80.0 % (kNN 70.0 %, one seed)."
    )
    assert headline(noise, "simclr", "linear", is_reference=False, is_least=False) == (
        "simclr reaches 50.0 % (kNN 45.0 %, one seed), 30.0 points below clean training; "
        "the poison removes 60 % of what training adds to an untrained network."
    )
    assert headline(noise, "simclr", "linear", is_reference=False, is_least=True).startswith(
        "Even simclr, the learner that suffers least,"
    )


def test_a_headline_turns_the_interval_with_the_side(build_results: Callable[..., Results]) -> None:
    accuracies = {
        ("clean", 0): (80.0, 1.0),
        ("clean", 1): (81.0, 1.0),
        ("noise", 0): (82.0, 1.0),
        ("noise", 1): (84.0, 1.0),
    }
    noise = summarise(accuracy_rows(build_results(accuracies, {})))[1]
    text = headline(noise, "simclr", "linear", is_reference=False, is_least=False)
    assert "83.0 ± 1.4 %" in text
    assert f"2.5 points above clean training, 95 % confidence interval [{MINUS}3.9, 8.9]" in text


def test_a_headline_without_numbers_says_what_to_run(build_results: Callable[..., Results]) -> None:
    results = build_results({("clean", 0): (80.0, 70.0)}, {})
    noise = summarise(accuracy_rows(results))[1]
    assert missing_note(noise) == "missing: run `dvc repro probe@noise-simclr-none-0-pets`"
    assert headline(noise, "simclr", "linear", is_reference=False, is_least=False).startswith(
        "No accuracy yet: run `dvc repro"
    )


def test_the_budget_is_stated_and_its_excess_too(results: Results) -> None:
    facts = results.poisons["noise"]
    assert facts.manifest is not None
    assert budget_sentence(facts) == "No pixel value differs by more than 8 grey levels (of 255); the budget is 8."
    assert budget_note(facts) == "largest difference 8 of 8 grey levels"
    over = dataclasses.replace(facts, manifest={**facts.manifest, "max_difference_levels": 9, "perturbed": 10})
    assert "this is over the budget" in budget_sentence(over)
    assert "25.0 % of the images are perturbed" in budget_sentence(over)
    assert budget_sentence(results.poisons["clean"]) == "Not a pixel differs from the original images."
    assert budget_sentence(dataclasses.replace(facts, manifest=None)) == "The poisoned data set is missing."
