"""Where training ended: a row for every cell, the last value that was measured, and nothing where nothing was."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.artifacts.files import write_csv
from engine.reporting.endings import training_records
from engine.reporting.readings import Curve
from engine.reporting.results import Results
from engine.study import Cell

NAN = float("nan")


def test_a_row_has_the_last_loss_and_the_last_value_that_was_measured(
    build_results: Callable[..., Results], tmp_path: Path
) -> None:
    results = build_results({("clean", 0): (80.0, 70.0), ("noise", 0): (50.0, 45.0)}, {})
    measures = {"alignment": np.array([0.9, 0.5, NAN]), "uniformity": np.array([-1.0, NAN, -2.1234567])}
    results.curves[Cell("pets", "noise", "simclr", "none", 0)] = Curve(
        np.arange(1, 4), np.array([3.0, 2.0, 0.25]), measures
    )
    del results.curves[Cell("pets", "clean", "simclr", "none", 0)]
    clean, noise = training_records(results)
    assert noise == {
        "cell": "noise-simclr-none-0",
        "poison": "noise",
        "victim": "simclr",
        "defense": "none",
        "seed": 0,
        "epochs": 3,
        "loss": 0.25,
        "alignment": 0.5,
        "uniformity": -2.123457,
        "clean_alignment": None,
        "clean_uniformity": None,
    }
    assert {name for name, value in clean.items() if value is None} == {"epochs", "loss", *measures} | {
        f"clean_{name}" for name in measures
    }
    write_csv(tmp_path / "training.csv", [clean, noise])
    with (tmp_path / "training.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["alignment"] for row in rows] == ["", "0.5"]
