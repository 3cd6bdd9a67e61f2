"""Files of a study are read, or their faults are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.artifacts import ArtifactError
from engine.reporting.readings import read_curve

OLD = "epoch,loss,lr\n1,2.5,0.1\n2,2.0,0.05\n"
NEW = """epoch,loss,lr,alignment,uniformity,clean_alignment,clean_uniformity
1,2.5,0.1,0.5,-1.5,,
2,2.0,0.05,,,,
3,1.0,0.01,0.25,-2.0,,
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "curve.csv"


def test_a_curve_of_an_older_version_has_no_measures(file: Path) -> None:
    file.write_text(OLD)
    curve = read_curve(file)
    assert (curve.epochs.tolist(), curve.losses.tolist()) == ([1, 2], [2.5, 2.0])
    assert dict(curve.measures) == {}


def test_empty_cells_are_epochs_that_were_not_measured(file: Path) -> None:
    file.write_text(NEW)
    curve = read_curve(file)
    assert curve.losses.tolist() == [2.5, 2.0, 1.0]
    np.testing.assert_array_equal(curve.measures["alignment"], [0.5, np.nan, 0.25])
    np.testing.assert_array_equal(curve.measures["uniformity"], [-1.5, np.nan, -2.0])
    assert curve.measured("clean_alignment") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,loss,lr\n",
        "epoch,lr\n1,0.1\n",
        OLD.replace("2.0", "nan"),
        OLD.replace("2.0", "two"),
        OLD.replace("2.0", ""),
        OLD.replace(",0.05", ""),
        NEW.replace("0.25", "near"),
        "{}",
    ],
)
def test_what_is_no_curve_is_said_to_be_none(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ArtifactError, match=r"curve\.csv is not a training curve .*; run the stage again"):
        read_curve(file)


def test_a_missing_curve_is_said_to_be_missing(file: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; run `dvc repro` to make it"):
        read_curve(file)
