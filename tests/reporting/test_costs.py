"""What is noted of time and memory is said, what is not is unknown, and nothing is added over kinds of device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from engine.artifacts import ArtifactError
from engine.reporting.board import UNKNOWN
from engine.reporting.cost_figure import draw_cost
from engine.reporting.costs import cost_board, duration, making_sentence, memory, time_board, time_records
from engine.reporting.inks import inks
from engine.reporting.readings import Cost, TrainingCost, parse
from engine.reporting.results import Results
from engine.reporting.sections import cards
from engine.reporting.tables import accuracy_rows, summarise
from engine.reporting.wording import NOTHING


def cost(seconds: float, device: str = "cpu", *, peak: int = 2**30) -> Cost:
    return Cost(seconds=seconds, peak_memory_bytes=peak, device=device)


def training(seconds: float, epoch: float, device: str = "cpu") -> TrainingCost:
    return TrainingCost(seconds=seconds, peak_memory_bytes=2**31, device=device, seconds_per_epoch=epoch)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0125, "0.013 s"),
        (1.0, "1.0 s"),
        (59.9, "59.9 s"),
        (60.4, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7383.0, "2 h 03 min"),
        (3_600_000.0, "1,000 h 00 min"),
    ],
)
def test_times_are_written_in_their_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 MiB"), (2**19, "0.5 MiB"), (2**30 - 2**20, "1,023.0 MiB"), (3 * 2**29, "1.50 GiB")]
)
def test_memory_is_written_in_gib_or_mib(count: int, text: str) -> None:
    assert memory(count) == text


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"seconds": 1.0, "device": "cpu"}, "peak_memory_bytes"),
        ({"seconds": 0.0, "peak_memory_bytes": 1, "device": "cpu"}, "seconds"),
        ({"seconds": 1.0, "peak_memory_bytes": -1, "device": "cpu"}, "peak_memory_bytes"),
        ({"seconds": 1.0, "peak_memory_bytes": 1}, "device"),
    ],
)
def test_a_cost_that_is_none_is_refused(tmp_path: Path, content: dict[str, object], fault: str) -> None:
    file = tmp_path / "cost.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=rf"holds no cost: {fault}.*; run the stage again"):
        parse(file, Cost)
    file.write_text(json.dumps({"seconds": 1.0, "peak_memory_bytes": 1, "device": "cpu"}))
    assert parse(file, Cost).seconds == 1.0
    with pytest.raises(ArtifactError, match="holds no training cost: seconds_per_epoch"):
        parse(file, TrainingCost)


def test_a_poison_that_noted_nothing_has_unknown_times(results: Results) -> None:
    clean, noise = cost_board(results).lines
    assert clean == ("clean", "clean", "zero", "0", "0", "0", NOTHING, UNKNOWN, UNKNOWN, "dvc repro generate@clean")
    assert noise[3:9] == ("12,000", "12,000", "300", "40 of 40", UNKNOWN, UNKNOWN)
    assert making_sentence(results, results.poisons["noise"]) == "Made with 12,000 image-views; time unknown."
    results.poisons["noise"] = replace(results.poisons["noise"], manifest=None)
    assert cost_board(results).lines[1][3:9] == (*(NOTHING,) * 4, UNKNOWN, UNKNOWN)
    assert making_sentence(results, results.poisons["noise"]) == ""


def test_what_a_poison_starts_from_is_added_where_its_device_is_the_same(results: Results) -> None:
    results.poisons["noise"] = replace(results.poisons["noise"], init="clean")
    results.costs["generate@noise"] = cost(90.0, peak=2**29)
    assert making_sentence(results, results.poisons["noise"]).endswith("time unknown.")  # of what it starts from
    results.costs["generate@clean"] = cost(30.0)
    assert making_sentence(results, results.poisons["noise"]) == "Made with 12,000 image-views; 2 min 00 s on cpu."
    results.costs["generate@clean"] = cost(30.0, "cuda")
    assert making_sentence(results, results.poisons["noise"]).endswith("time unknown.")
    line, record = cost_board(results).lines[1], cost_board(results).records[1]
    assert line[7:9] == ("1 min 30 s on cpu", "512.0 MiB")
    assert (record["seconds"], record["peak_memory_bytes"], record["device"]) == (90.0, 2**29, "cpu")
    assert record["command"] == "dvc repro generate@noise"


def test_cards_say_what_making_an_attack_took(results: Results) -> None:
    results.costs["generate@noise"] = cost(90.0)
    found = {card["name"]: card["making"] for card in cards(results, summarise(accuracy_rows(results)))}
    assert found == {"clean": "", "noise": "Made with 12,000 image-views; 1 min 30 s on cpu."}


def test_times_are_apart_for_every_kind_of_device(results: Results) -> None:
    results.costs |= {
        "generate@noise": cost(4.0),
        "pretrain@clean-simclr-none-0": training(100.0, 2.0),
        "pretrain@clean-simclr-none-1": training(300.0, 6.0),
        "pretrain@clean-simclr-none-2": training(200.0, 3.0),
        "pretrain@noise-simclr-none-0": training(10.0, 0.5, "cuda"),
        "floor@simclr-0-pets": cost(1.0, peak=5 * 2**20),
        "pretrain@of-another-study": training(1e6, 1e6),
    }
    assert time_board(results).lines == (
        ("generate", "cpu", "1 of 2", "4.0 s", "4.0 s", NOTHING, "1.00 GiB"),
        ("pretrain", "cpu", "3 of 6", "10 min 00 s", "3 min 20 s", "3.0 s", "2.00 GiB"),
        ("pretrain", "cuda", "1 of 6", "10.0 s", "10.0 s", "0.500 s", "2.00 GiB"),
        ("probe", UNKNOWN, "0 of 6", UNKNOWN, UNKNOWN, NOTHING, UNKNOWN),
        ("floor", "cpu", "1 of 3", "1.0 s", "1.0 s", NOTHING, "5.0 MiB"),
    )
    records = [*time_records(results)]
    assert (records[1]["seconds"], records[1]["median_seconds_per_epoch"]) == (600.0, 3.0)
    assert records[3] == {
        **{"stage": "probe", "device": None, "cells": 6, "n": 0, "seconds": None, "median_seconds": None},
        **{"median_seconds_per_epoch": None, "peak_memory_bytes": None},
    }


def points(results: Results) -> tuple[Figure, dict[str, tuple[float, float]]]:
    """Draw the figure of costs, and return where the points with names stand."""
    sheet = draw_cost(results, summarise(accuracy_rows(results)))
    assert sheet is not None
    axes = Figure(figsize=(6.5, 3.6)).add_subplot()
    sheet.panels[0].draw(axes)
    return axes.get_figure(), {text.get_text(): tuple(text.xy) for text in axes.texts}


def test_every_attack_stands_at_its_cost_and_its_worst_case_in_its_own_ink(results: Results) -> None:
    figure, found = points(results)
    axes = figure.axes[0]
    assert found == {"noise, n = 2": (12_000, 52.5)}
    (bars,) = axes.containers
    point, _, (spans,) = bars
    ink = inks(results)["noise"]
    assert (point.get_color(), point.get_marker()) == (ink.colour, ink.marker)
    low, high = spans.get_paths()[0].vertices[:, 1]
    assert (low, high) == pytest.approx((52.5 - 12.5**0.5, 52.5 + 12.5**0.5))
    (clean,) = (line for line in axes.lines if line.get_label() == "clean images, n = 3")
    assert {*clean.get_ydata()} == {82.0}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10 k"]
    left, right = axes.get_xlim()
    assert 0 < left < 12_000 < right


def test_what_costs_nothing_has_a_place_left_of_what_costs_something(results: Results) -> None:
    free = results.poisons["noise"].manifest
    assert free is not None
    results.poisons["noise"] = replace(results.poisons["noise"], manifest={**free, "image_views": 0})
    figure, found = points(results)
    assert found == {"noise, n = 2": (0, 52.5)}
    assert figure.axes[0].get_xlim()[0] < 0
    assert figure.axes[0].get_xticklabels()[0].get_text() == "0"


def test_without_an_attack_that_is_measured_there_is_no_figure(results: Results) -> None:
    for key in [key for key in results.accuracies if key[0].poison == "noise"]:
        del results.accuracies[key]
    assert draw_cost(results, summarise(accuracy_rows(results))) is None


def test_names_of_points_on_each_other_stand_apart(build_results: Callable[..., Results]) -> None:
    kinds = ("clean", *(f"noise_{place}" for place in range(4)))
    results = build_results({(kind, 0): (50.0, 40.0) for kind in kinds}, {0: (30.0, 20.0)}, kinds=kinds)
    figure, found = points(results)
    assert {*found.values()} == {(12_000, 50.0)}
    places = {(text.get_position(), text.get_ha()) for text in figure.axes[0].texts}
    assert places == {((8, 8), "left"), ((8, -8), "left"), ((-8, 8), "right"), ((-8, -8), "right")}
