"""The layout that does nothing: it writes down what a stage would do, and never says that it was done."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.artifacts.files import read_json
from engine.cli import app
from engine.executors.dry_run import FOLDER, NotDone
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.validate import validate


def test_a_job_is_written_down_and_not_done(project: Path) -> None:
    validate("quickstart")
    job = generate_job("scenes", "cp_c", "quick_cp_class", "uniform", "fp32")
    with pytest.raises(NotDone, match=r"generate cp_c was not done.*\.work/dry_run/generate-scenes-cp_c\.json"):
        dispatch(job, "dry_run")
    written = read_json(FOLDER / "generate-scenes-cp_c.json")
    assert written["command"] == [*job.command, "--layout", "dry_run"]
    assert written["outs"] == [str(out) for out in job.outs]
    assert (written["identity"], written["about"], written["is_shared"]) == (job.identity, job.about, True)
    assert not any(out.exists() for out in job.outs)


def test_what_was_made_before_is_not_taken_for_what_the_job_makes(project: Path) -> None:
    validate("quickstart")
    options = ["generate", "--dataset", "scenes", "--name", "noise", "--attack", "quick_random_noise", "--init", "zero"]
    assert CliRunner().invoke(app, options).exit_code == 0
    done = CliRunner().invoke(app, [*options, "--layout", "dry_run"])
    assert isinstance(done.exception, NotDone)
