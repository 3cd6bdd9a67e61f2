"""A learner learns in half of float32's bits too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.artifacts.encoder import read_encoder
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.pretrain import pretrain_job
from engine.stages.probe import floor_job, probe_job
from engine.study import Cell

CELL = Cell("scenes", "clean", "simclr_quick", "none", 0)
GAINED = 3.0  # points of kNN accuracy; 8 of the 40 epochs gained 6.0


@pytest.mark.slow
def test_the_quickstarts_victim_learns_under_bf16_on_a_cpu(project: Path) -> None:
    victim = (project / "specs/victims/simclr_quick.yaml").read_text().replace("epochs: 40", "epochs: 8")
    assert "\nepochs: 8\n" in victim
    (project / "specs/victims/simclr_quick.yaml").write_text(victim)
    (project / "specs/protocols/brief.yaml").write_text("linear: {epochs: 1, copies: 1}\n")
    (project / "specs/layouts/local.yaml").write_text("kind: local\ndevice: cpu\n")
    dispatch(generate_job("scenes", "clean", "clean", "zero", "bf16"), "local")
    dispatch(pretrain_job(CELL, "bf16"), "local")
    assert read_encoder(CELL.encoder)[1]["precision"] == "bf16"
    trained = json.loads(dispatch(probe_job(CELL, "scenes", "brief"), "local").read_text())
    untrained = json.loads(
        dispatch(floor_job("scenes", "simclr_quick", CELL.seed, "scenes", "brief"), "local").read_text()
    )
    assert (trained["precision"], "precision" in untrained) == ("bf16", False)
    assert trained["knn"] >= untrained["knn"] + GAINED
