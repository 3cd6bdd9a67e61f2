"""Planning: what a study would run, as DVC would run it, and what that takes, from arithmetic and a few real steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine import plugins
from engine.artifacts.files import read_json
from engine.cli import app
from engine.machine import Machine
from engine.params import load_params
from engine.protocols import Source
from engine.randomness import stream
from engine.specfiles import SpecFault, load
from engine.stages import calibration as calibrating
from engine.stages.calibration import FILE, Calibration
from engine.stages.plan import AT_LEAST, AT_MOST, Plan, Size, Step, forecast, plan_of, size_of
from engine.stages.planning import notes, table_of
from engine.stages.rehearsal import Learning, Pace
from engine.study import load_study

PROJECT = Path(__file__).parents[2]
BACKBONE = {"kind": "resnet18", "width": 4, "stages": [1]}
TINY = {"kind": "simclr", "backbone": BACKBONE, "views": {"size": 8}, "batch_size": 32, "epochs": 3, "warmup_epochs": 1}
SPECS: dict[str, Any] = {
    "datasets/tiny": {"kind": "digits", "image_size": 8, "train_per_class": 12, "test_per_class": 5},
    "victims/tiny": TINY,
    "attacks/tiny_ue": {
        "kind": "unlearnable_examples",
        "epsilon": "8/255",
        "granularity": "sample",
        "max_rounds": 4,
        "pgd_steps": 2,
        "surrogate": {**TINY, "kind": "supervised"},
    },
    "attacks/half": {"kind": "clean_remainder", "poison_fraction": 0.5},
    "protocols/banked": {"linear": {"epochs": 3, "copies": 5}},
    "studies/tiny": {
        "study": {
            "name": "tiny",
            "dataset": "tiny",
            "poisons": {"ue": {"attack": "tiny_ue", "init": "zero"}, "half": {"attack": "half", "init": "zero"}},
            "victims": ["tiny"],
            "defenses": ["none", "matrix_completion"],
            "downstream": ["tiny"],
            "seeds": [0, 1],
            "protocol": "banked",
        }
    },
}


@pytest.fixture
def study(project: Path) -> Path:
    """A project with a study that takes seconds."""
    for name, values in SPECS.items():
        (project / "specs" / f"{name}.yaml").write_text(json.dumps(values))
    return project


@pytest.fixture
def steps(study: Path) -> dict[str, Step]:
    return {step.stage: step for step in plan_of("tiny").steps()}


def test_steps_are_those_that_dvc_runs_with_the_same_commands(steps: dict[str, Step]) -> None:
    assert len(steps) == 2 + 2 * 2 * 2 + 2 + 2 * 2 * 2
    listed = subprocess.run(
        [sys.executable, "-c", DVC_COMMANDS], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    declared = json.loads(listed.stdout.splitlines()[-1])
    for step in steps.values():
        words, options = declared[step.stage].split(), list(step.command[2:])
        assert words[3] == options[0]
        assert _pairs(words[4:]) == _pairs(options[1:])


DVC_COMMANDS = """
import json
from pathlib import Path
text = Path("dvc.yaml").read_text().replace("specs/studies/quickstart.yaml", "specs/studies/tiny.yaml")
Path("dvc.yaml").write_text(text)
from dvc.repo import Repo
with Repo.init(".", no_scm=True) as repo:
    print(json.dumps({stage.addressing: stage.cmd for stage in repo.index.stages}))
"""


def _pairs(options: list[str]) -> dict[str, str]:
    return dict(zip(options[::2], options[1::2], strict=True))


def test_image_views_follow_from_the_specs(steps: dict[str, Step]) -> None:
    ue, half = steps["generate@ue"], steps["generate@half"]
    assert (ue.image_views, ue.bound) == (4 * (10 * 32 + 2 * 120), AT_MOST)
    assert (half.image_views, half.bound, half.learning) == (0, "", None)
    # Three epochs of two views: of three whole batches out of 120 images, or of one out of the 60 that are left.
    assert steps["pretrain@ue-tiny-none-0"].image_views == 3 * 3 * 32 * 2
    assert steps["pretrain@half-tiny-none-1"].image_views == 3 * 1 * 32 * 2
    assert steps["pretrain@ue-tiny-none-0"].bound == ""
    # Both halves as they are, three copies (no more than epochs) of the clean training set, the test set once more.
    for stage in ("probe@half-tiny-matrix_completion-1-tiny", "floor@tiny-0-tiny"):
        assert steps[stage].image_views == (1 + 3) * 120 + 2 * 50


def test_a_probe_on_poisoned_images_encodes_those_that_are_released(study: Path) -> None:
    (study / "specs/protocols/banked.yaml").write_text(
        json.dumps({**SPECS["protocols/banked"], "train_set": "poisoned"})
    )
    plan = Plan(load_study("tiny"), load_params())
    steps = {step.stage: step for step in plan.steps()}
    assert steps["probe@half-tiny-none-0-tiny"].image_views == 4 * 60 + 2 * 50
    assert steps["floor@tiny-0-tiny"].image_views == 4 * 120 + 2 * 50


def test_a_defense_of_the_whole_data_set_makes_a_lower_bound(steps: dict[str, Step], study: Path) -> None:
    position = load("defenses", "matrix_completion").position
    bound = AT_LEAST if position == "dataset" else ""
    assert steps["pretrain@ue-tiny-matrix_completion-0"].bound == bound
    (study / "specs/defenses/whole.yaml").write_text(json.dumps({"kind": "grayscale", "position": "dataset"}))
    values = {**SPECS["studies/tiny"]["study"], "defenses": ["whole"]}
    (study / "specs/studies/tiny.yaml").write_text(json.dumps({"study": values}))
    (first, *_) = (step for step in plan_of("tiny").steps() if step.stage.startswith("pretrain"))
    assert first.bound == AT_LEAST


@pytest.mark.parametrize("kind", plugins.kinds("victims"))
def test_every_learner_says_how_many_views_it_takes(project: Path, kind: str) -> None:
    (project / "specs/victims/v.yaml").write_text(json.dumps({**TINY, "kind": kind}))
    spec = load("victims", "v")
    victim = plugins.build("victims", spec, source=Source((0.5,) * 3, (0.5,) * 3, 2), generator=stream(0, "v"))
    assert len(victim.views) == spec.views_per_image


def test_sizes_come_from_the_spec_or_from_the_images_or_are_unknown(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_DATA", str(study / "nowhere"))
    assert size_of("tiny") == Size(120, 50, 10)
    (study / "specs/datasets/all_digits.yaml").write_text(json.dumps({"kind": "digits"}))
    whole = size_of("all_digits")
    assert whole.train is not None
    assert whole.test is not None
    assert whole.train + whole.test == 1797
    (study / "specs/datasets/folder.yaml").write_text(json.dumps({"kind": "imagefolder", "path": "f", "image_size": 8}))
    assert size_of("folder") == Size(None, None)
    assert Size(None, None).released(load("attacks", "half")) is None


def test_time_is_shared_by_processes_where_the_work_is(steps: dict[str, Step]) -> None:
    pace = Pace(0.5, 2**20)
    trained = forecast(steps["pretrain@ue-tiny-none-0"], pace, 4)
    assert (trained.device_seconds, trained.seconds, trained.memory) == (288.0, 72.0, 2**20)
    probed = forecast(steps["floor@tiny-0-tiny"], pace, 4)
    assert probed.device_seconds == probed.seconds == 290.0
    assert forecast(steps["floor@tiny-0-tiny"], None, 4).seconds is None


def test_what_processes_share_and_what_is_unknown_is_said(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_DATA", str(study / "nowhere"))
    plan = plan_of("tiny")
    calibration = Calibration(Machine.of("cpu", "fp32"))
    forecasts = [forecast(step, Pace(0.5, 2**20), 4) for step in plan.steps()]
    said = " ".join(notes(plan, forecasts, calibration, 4))
    seconds = 0.5 * sum(step.image_views or 0 for step in plan.steps() if step.learning)
    assert f"In all {seconds / 3600:,.3g} CPU-hours" in said
    assert "has 4 processes" in said
    assert "upper bound of the speed-up" in said
    assert "Unknown" not in said
    plan.sizes["tiny"] = Size(None, None)
    forecasts = [forecast(step, Pace(0.5, 2**20), 1) for step in plan.steps()]
    said = " ".join(notes(plan, forecasts, calibration, 1))
    assert "Unknown, and in no sum: what needs tiny" in said
    assert "processes" not in said
    cells = [*table_of(plan, forecasts).columns[2].cells]
    assert [str(cell) for cell in cells].count("unknown") == len(cells) - 1  # the clean remainder costs nothing


def test_real_steps_are_timed_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Learning] = []
    measure = calibrating._measure
    monkeypatch.setattr(calibrating, "ENOUGH", 0.0)
    monkeypatch.setattr(
        calibrating, "_measure", lambda learning, machine: measured.append(learning) or measure(learning, machine)
    )
    first = CliRunner().invoke(app, ["plan", "tiny"])
    assert first.exit_code == 0, first.output
    assert "CPU-hours" in first.output or "GPU-hours" in first.output
    # The surrogate, the victim under each of two defenses, and encodings of the victim.
    assert len(measured) == 4
    assert len(read_json(FILE)) == 4
    again = CliRunner().invoke(app, ["plan", "tiny"])
    assert len(measured) == 4
    assert again.output.partition("tiny: what")[2] == first.output.partition("tiny: what")[2]


@pytest.mark.parametrize("defense", [{"kind": "ueraser", "repeats": 2}, {"kind": "mixup"}, {"kind": "grayscale"}])
def test_a_defense_is_part_of_what_is_timed(study: Path, defense: dict[str, Any]) -> None:
    (study / "specs/defenses/d.yaml").write_text(json.dumps(defense))
    calibration = Calibration(Machine.of("cpu", "fp32"))
    victim, dataset = load("victims", "tiny"), load("datasets", "tiny")
    pace = calibration.pace(Learning(victim, dataset, load("defenses", "d")))
    assert pace.seconds > 0
    assert pace.memory > 2**20
    assert calibration.pace(Learning(victim.model_copy(update={"epochs": 9}), dataset, load("defenses", "d"))) == pace
    assert len(read_json(FILE)) == 1


def test_without_a_calibration_nothing_is_timed(study: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "tiny", "--no-calibrate"])
    assert done.exit_code == 0, done.output
    assert "at most 2,240" in done.output
    assert "hours" not in done.output
    assert not FILE.exists()


def test_a_study_that_cannot_run_has_no_plan(study: Path) -> None:
    values = {**SPECS["studies/tiny"]["study"], "defenses": ["adversarial_training"]}
    (study / "specs/studies/tiny.yaml").write_text(json.dumps({"study": values}))
    with pytest.raises(SpecFault, match="adversarial_training cannot defend tiny"):
        plan_of("tiny")
