"""Findings on learners whose accuracies are made up to mean one thing."""

from __future__ import annotations

import math

import pytest

from engine.protecting.findings import findings, margin
from engine.protecting.judging import Reading, Readings
from engine.reporting.readings import Accuracy


def reading(release: str, knn: float, defense: str = "none", head: float | None = None) -> Reading:
    accuracy = Accuracy(
        linear=50, knn=knn, head=head, train_set="clean", select="last", train_images=1600, test_images=2000, numerics=1
    )
    return Reading("victim", release, defense, accuracy)


def readings(again: float | None = None, defended: float = 40.0, **releases: float) -> Readings:
    knn = {"untrained": 20.0, "clean": 60.0, "released": 40.0, "jpeg_75": 41.0, "jpeg_50": 42.0, "resized": 43.0}
    knn = {**knn, "half_released": 50.0, **releases}
    floor, clean, *rest = (reading(name, value) for name, value in knn.items())
    second = None if again is None else reading("clean, another seed", again)
    return Readings("victim", "simclr", floor, clean, second, tuple(rest), (reading("released", defended, "cutout"),))


def levels(**changes: float) -> list[str]:
    return [finding.level for finding in findings(readings(**changes))]


def test_margin_is_two_standard_errors_or_the_difference_of_two_seeds() -> None:
    error = 100 * math.sqrt((0.6 * 0.4 + 0.4 * 0.6) / 2000)
    assert margin(readings()) == pytest.approx(2 * error)
    assert margin(readings(again=59.0)) == pytest.approx(2 * error)
    assert margin(readings(again=50.0)) == pytest.approx(10)


def test_a_protection_that_holds_is_said_to() -> None:
    (found,) = findings(readings())
    assert found.level == "holds"
    assert "removes 50 % of what this learner gains: kNN 40.0 % on the protected images, 60.0 % on" in found.text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"clean": 21.0}, ["unknown"]),
        ({"released": 58.0}, ["void"]),
        ({"again": 85.0}, ["void"]),
        ({"released": 54.0, "jpeg_75": 54.0, "jpeg_50": 54.0, "resized": 54.0, "defended": 54.0}, ["weak"]),
        ({"jpeg_75": 55.0}, ["holds", "undone"]),
        ({"jpeg_50": 55.0, "resized": 55.0}, ["holds", "undone", "undone"]),
        ({"half_released": 58.0}, ["holds", "whole"]),
        ({"half_released": 62.0}, ["holds", "whole"]),
        ({"defended": 58.0}, ["holds", "undone"]),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, float], expected: list[str]) -> None:
    assert levels(**changes) == expected


def test_what_undoes_a_protection_is_called_by_its_name() -> None:
    texts = [finding.text for finding in findings(readings(jpeg_75=55.0, resized=56.0, defended=57.0))]
    assert texts[1].startswith("JPEG of quality 75 undoes it: 12 % of the gain removed instead of 50 % (55.0 %)")
    assert texts[2].startswith("resizing to half and back undoes it")
    assert texts[3].startswith("the defense cutout undoes it")


def test_a_learner_with_a_classifier_is_judged_by_it() -> None:
    floor, clean = reading("untrained", 20, head=10.0), reading("clean", 60, head=70.0)
    names = ("released", "jpeg_75", "jpeg_50", "resized", "half_released")
    releases = tuple(reading(name, 60, head=30.0) for name in names)
    (found,) = findings(Readings("victim", "supervised", floor, clean, None, releases, ()))
    assert found.level == "holds"
    assert "own classifier 30.0 %" in found.text
    assert "removes 67 %" in found.text
