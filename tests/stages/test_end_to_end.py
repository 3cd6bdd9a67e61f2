"""The whole pipeline on the embedded data set: the real engine under the real DVC."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.artifacts import read_poison
from engine.reporting.readings import MeasuredPerturbation, parse

PROJECT = Path(__file__).parents[2]
STUDY = """
study:
  name: tiny
  dataset: tiny_digits
  poisons:
    clean: {attack: clean, init: zero}
    cp_s: {attack: tiny_cp, init: uniform}
  victims: [tiny]
  defenses: [none]
  downstream: [tiny_digits]
  seeds: [0]
  protocol: banked
"""
SPECS = {
    "studies/tiny.yaml": STUDY,
    "datasets/tiny_digits.yaml": "kind: digits\nimage_size: 8\ntrain_per_class: 12\ntest_per_class: 5\n",
    "victims/tiny.yaml": "kind: simclr\nbackbone: {kind: resnet18, width: 4, stages: [1]}\nviews: {size: 8}\n"
    "batch_size: 32\nepochs: 2\nwarmup_epochs: 1\n",
    "attacks/tiny_cp.yaml": "kind: contrastive_poisoning\nepsilon: 8/255\ngranularity: sample\nrounds: 1\n"
    "model_steps: 1\nnoise_steps: 2\npgd_steps: 1\nsurrogate:\n  kind: simclr\n"
    "  backbone: {kind: resnet18, width: 4, stages: [1]}\n  views: {size: 8}\n  batch_size: 32\n",
    "protocols/banked.yaml": "linear: {epochs: 2, copies: 1}\n",
}


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)}


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a study that takes seconds."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "specs", root / "specs")
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        shutil.copy(PROJECT / name, root / name)
    (root / "engine").mkdir()  # only the versions: the package itself is the installed one
    shutil.copy(PROJECT / "engine/numerics.yaml", root / "engine/numerics.yaml")
    for name, text in SPECS.items():
        (root / "specs" / name).write_text(text)
    assert run(root, "git", "init", "--quiet").returncode == 0
    assert run(root, "dvc", "init", "--quiet").returncode == 0
    shutil.copy(PROJECT / ".dvc/config", root / ".dvc/config")
    chosen = run(root, sys.executable, "-m", "engine", "study", "tiny")
    assert chosen.returncode == 0, chosen.stderr
    return root


def test_a_bare_repro_makes_poison_encoders_accuracies_and_a_report(repository: Path) -> None:
    done = run(repository, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    released = read_poison(repository / "artifacts/tiny_digits/poison/cp_s")
    assert released.images.images_u8.shape == (120, 3, 8, 8)
    assert 0 < released.manifest["max_difference_levels"] <= 8
    accuracies = json.loads((repository / "artifacts/tiny_digits/probe/cp_s-tiny-none-0-tiny_digits.json").read_text())
    assert 0 <= accuracies["linear"] <= 100
    assert (accuracies["train_set"], accuracies["select"]) == ("clean", "last")
    page = (repository / "reports/tiny/index.html").read_text()
    assert "cp_s" in page
    assert "What is missing" not in page
    measured = {
        name: parse(repository / f"artifacts/tiny_digits/perturbation/{name}.json", MeasuredPerturbation)
        for name in ("clean", "cp_s")
    }
    assert (measured["clean"].images, measured["clean"].spectrum) == (0, None)
    assert measured["cp_s"].images == 120
    assert (repository / "reports/tiny/separability.png").is_file()
    assert "probe/cp_s-tiny-none-0-tiny_digits.json" in run(repository, "dvc", "metrics", "show", "--md").stdout
    again = run(repository, "dvc", "repro")
    assert "Running stage" not in again.stdout
    assert list((repository / ".work/partial").iterdir()) == []


def test_a_bad_spec_stops_before_anything_trains(repository: Path) -> None:
    bad = repository / "specs/victims/bad.yaml"
    bad.write_text("kind: simclr\nepochs: -1\n")
    try:
        done = run(repository, "dvc", "repro")
    finally:
        bad.unlink()
    assert done.returncode != 0
    assert "specs/victims/bad.yaml:2:1: epochs" in done.stdout + done.stderr
    assert "generate" not in done.stdout


@pytest.mark.parametrize("seconds", [3.0, 4.5])
def test_a_killed_stage_leaves_nothing_that_a_later_run_accepts(repository: Path, seconds: float) -> None:
    """Killed before, while or after writing: the folder is absent, or whole and readable."""
    command = (sys.executable, "-m", "engine", "generate", "--dataset", "tiny_digits", "--name", f"killed{seconds}")
    target = repository / f"artifacts/tiny_digits/poison/killed{seconds}"
    process = subprocess.Popen(
        [*command, "--attack", "tiny_cp", "--init", "uniform"],
        cwd=repository,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists() or read_poison(target).manifest["images"] == 120


def test_a_stage_works_without_dvc_and_says_where_it_is(repository: Path) -> None:
    done = run(
        repository, sys.executable, "-m", "engine", "generate", "--dataset", "tiny_digits",
        "--name", "by_hand", "--attack", "random_noise", "--init", "zero",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "artifacts/tiny_digits/poison/by_hand"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--name", "x", "--attack", "tiny_pc", "--init", "zero"), "did you mean 'tiny_cp'"),
        (("--name", "x", "--attack", "tiny_cp", "--init", "nowhere"), "poison/nowhere/manifest.json does not exist"),
        (("--name", "x", "--attack", "tiny_cp", "--init", "zero", "--layout", "moon"), "layouts has no 'moon'"),
    ],
)
def test_a_wrong_coordinate_is_one_clear_message(repository: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(repository, sys.executable, "-m", "engine", "generate", "--dataset", "tiny_digits", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
