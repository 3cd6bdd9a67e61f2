"""The interface for notebooks: what it declares, what it reads, and what it says of mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine
from engine import Study, load_poison
from engine.artifacts import ArtifactError
from engine.errors import EngineError
from engine.specfiles import SpecFault
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.study import active_study
from tests.smallproject import environment

DIGITS = "kind: digits\nimage_size: 8\ntrain_per_class: 4\ntest_per_class: 1\n"
NOISE = "kind: random_noise\nepsilon: 8/255\n"
TINY = (
    "kind: simclr\nbackbone: {kind: resnet18, width: 4, stages: [1]}\nviews: {size: 8}\nbatch_size: 8\nepochs: 2\n"
    "warmup_epochs: 1\n"
)
POISONS = {"clean": {"attack": "clean", "init": "zero"}, "noise": {"attack": "noise", "init": "zero"}}


@pytest.fixture
def small(project: Path) -> Path:
    (project / "specs/datasets/few.yaml").write_text(DIGITS)
    (project / "specs/attacks/noise.yaml").write_text(NOISE)
    (project / "specs/victims/tiny.yaml").write_text(TINY)
    return project


def declare(name: str = "mine", **changes: object) -> Study:
    fields = {"dataset": "few", "poisons": POISONS, "victims": ["tiny"], **changes}
    return Study.declare(name, **fields)  # type: ignore[arg-type]


def test_a_declared_study_is_a_file_like_any_other(small: Path) -> None:
    study = declare(seeds=[3, 4])
    assert study.spec.downstream == ("few",)
    assert Study.load("mine") == study
    assert (small / "specs/studies/mine.yaml").read_text().startswith("# yaml-language-server")
    assert declare(seeds=[3, 4]) == study
    assert [(row.poison, row.seed, row.linear) for row in study.accuracies()][:2] == [
        ("clean", 3, None),
        ("clean", 4, None),
    ]
    assert study.report == Path("reports/mine/index.html")


def test_another_study_is_not_overwritten(small: Path) -> None:
    declare()
    before = (small / "specs/studies/mine.yaml").read_text()
    with pytest.raises(EngineError, match="declares another study"):
        declare(seeds=[1])
    assert (small / "specs/studies/mine.yaml").read_text() == before


def test_a_study_with_a_mistake_leaves_no_file(small: Path) -> None:
    with pytest.raises(SpecFault, match="did you mean 'simclr_quick'"):
        declare(victims=["simclr_quik"])
    assert not (small / "specs/studies/mine.yaml").exists()


def test_a_study_runs_only_where_a_pipeline_is(small: Path) -> None:
    study = declare()
    (small / "dvc.yaml").unlink()
    with pytest.raises(EngineError, match=r"dvc\.yaml"):
        engine.run(study)


def test_poisons_are_read_and_missing_ones_named(small: Path) -> None:
    study = declare()
    with pytest.raises(ArtifactError, match=r"manifest\.json does not exist"):
        study.poison("noise")
    dispatch(generate_job("few", "noise", "noise", "zero", "fp32"), "local")
    read = load_poison("artifacts/few/poison/noise")
    assert torch.equal(read.poison.noise, study.poison("noise").poison.noise)
    assert len(read.images) == 40


def test_the_package_offers_three_names_and_loads_nothing_before_they_are_asked_for() -> None:
    script = "import sys, engine; assert 'torch' not in sys.modules; engine.nothing"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment()
    )
    assert "AttributeError: module 'engine' has no attribute 'nothing'" in done.stderr
    assert engine.__all__ == ["Study", "load_poison", "run"]


@pytest.mark.slow
def test_a_poison_is_read_as_it_was_at_a_tag(small: Path) -> None:
    def do(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr

    (small / "engine").mkdir()
    (small / "engine/numerics.yaml").write_text("generate: 1\npretrain: 1\nprobe: 1\n")
    declare()
    do(sys.executable, "-m", "engine", "study", "mine")
    assert active_study() == "mine"
    do("git", "init", "--quiet")
    do("dvc", "init", "--quiet")
    (small / ".gitignore").write_text("/artifacts\n/.work\n")
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
    for epsilon in (8, 4):
        (small / "specs/attacks/noise.yaml").write_text(NOISE.replace("8", str(epsilon), 1))
        do("dvc", "repro", "generate@noise")
        do("git", "add", "-A")
        do(*git, "commit", "--quiet", "-m", f"epsilon {epsilon}")
        do("git", "tag", f"epsilon-{epsilon}")
    folder = "artifacts/few/poison/noise"
    assert load_poison(folder).manifest["max_difference_levels"] == 4
    assert load_poison(folder, rev="epsilon-8").manifest["max_difference_levels"] == 8
    assert load_poison(folder, repo=str(small), rev="epsilon-4").poison.noise.abs().max() == 4
    with pytest.raises(EngineError, match="at nowhere"):
        load_poison(folder, rev="nowhere")
