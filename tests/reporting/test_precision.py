"""The precision that networks were trained in is said where it is reduced, and keeps what differs apart."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.reporting.content import Content
from engine.reporting.costs import making_sentence
from engine.reporting.records import write_records
from engine.reporting.results import Results, precisions
from engine.reporting.tables import accuracy_rows, summarise


@pytest.fixture
def trained_in(build_results: Callable[..., Results]) -> Callable[[str, str], Results]:
    """Return a function that builds a study whose clean and poisoned networks were trained in given precisions."""

    def build(clean: str, noise: str) -> Results:
        results = build_results({("clean", 0): (80.0, 70.0), ("noise", 0): (50.0, 45.0)}, {0: (30.0, 25.0)})
        chosen = {"clean": clean, "noise": noise}
        results.accuracies = {
            (cell, downstream): found.model_copy(update={"precision": chosen[cell.poison]})
            for (cell, downstream), found in results.accuracies.items()
        }
        return results

    return build


def table_of(results: Results, folder: Path) -> list[dict[str, str]]:
    rows = accuracy_rows(results)
    write_records(folder, Content(results, rows, summarise(rows), [], {}))
    with (folder / "accuracy.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_float32_is_not_said(trained_in: Callable[[str, str], Results], tmp_path: Path) -> None:
    results = trained_in("fp32", "fp32")
    assert precisions(results) == []
    assert "precision" not in table_of(results, tmp_path)[0]
    assert not any("precision" in row for row in json.loads((tmp_path / "study.json").read_text())["rows"])


def test_a_reduced_precision_is_a_column(trained_in: Callable[[str, str], Results], tmp_path: Path) -> None:
    results = trained_in("bf16", "bf16")
    assert precisions(results) == ["bf16"]
    lines = table_of(results, tmp_path)
    assert [line["precision"] for line in lines] == ["bf16", "bf16", ""]
    assert [line["linear_drop"] for line in lines] == ["0.0", "30.0", ""]
    assert lines[1]["linear_gain_removed"] == "60.0"  # the floor was never trained: it has no precision


def test_networks_of_two_precisions_are_not_subtracted(
    trained_in: Callable[[str, str], Results], tmp_path: Path
) -> None:
    results = trained_in("fp32", "bf16")
    assert precisions(results) == ["bf16", "fp32"]
    lines = table_of(results, tmp_path)
    assert [line["linear_drop"] for line in lines] == ["0.0", "", ""]


def test_the_precision_in_which_noise_was_learnt_is_said_where_it_is_reduced(
    build_results: Callable[..., Results],
) -> None:
    results = build_results({("clean", 0): (80.0, 70.0)}, {}, kinds=("clean", "start", "noise"))

    def said(start: str, noise: str) -> str:
        for name, precision in (("clean", "bf16"), ("start", start), ("noise", noise)):
            facts = results.poisons[name]
            init = {"noise": "start", "start": "clean"}.get(name, "zero")
            results.poisons[name] = replace(
                facts, init=init, manifest={**(facts.manifest or {}), "precision": precision}
            )
        return making_sentence(results, results.poisons["noise"])

    # Clean images took no network: it does not matter in what it would have computed.
    assert said("fp32", "fp32") == "Made with 24,000 image-views; time unknown."
    assert said("bf16", "bf16") == "Made in bf16 with 24,000 image-views; time unknown."
    assert said("fp32", "bf16") == "Made in bf16 and fp32 with 24,000 image-views; time unknown."
