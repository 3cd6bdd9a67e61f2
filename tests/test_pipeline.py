"""What a bare ``dvc repro`` re-runs after an edit, on a real DVC repository with cheap stages.

The project's own dvc.yaml runs here against a stand-in for the engine, which writes what a stage was
told and read, and logs the call. Only the commands' work is replaced: DVC, the specs and the grid are real.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.specfiles import names
from engine.study import STUDY_LINE, cells, load_study

PROJECT = Path(__file__).parents[1]

STAND_IN = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML

stage, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
o = {name.removeprefix("--"): value for name, value in options.items()}
with open("calls.log", "a") as log:
    log.write(" ".join([stage, *sys.argv[2:]]) + "\\n")
base = Path("artifacts") / o.get("dataset", "none")

def spec(group, name):
    return YAML(typ="safe").load(Path(f"specs/{group}/{name}.yaml").read_text())

def write(path, *content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([options, version, *content]))

def read(path):
    return path.read_text()

version = YAML(typ="safe").load(Path("engine/numerics.yaml").read_text()).get(stage)  # real artifacts hold it too

if stage == "validate":
    dataset = spec("studies", o["study"])["study"]["dataset"]
    for start in ("zero", "uniform"):
        target = Path("artifacts") / dataset / "poison" / start
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("valid")
elif stage == "generate":
    start = base / "poison" / o["init"]
    text = read(start if start.is_file() else start / "data")
    write(base / "poison" / o["name"] / "data", spec("attacks", o["attack"]), spec("datasets", o["dataset"]), text)
    write(base / "perturbation" / f"{o['name']}.json", "perturbation")
    write(base / "cost" / f"generate-{o['name']}.json", "cost")
elif stage == "report":
    write(Path("reports") / o["study"] / "accuracy.csv", "cell,linear")
else:
    key = "-".join(o[axis] for axis in ("poison", "victim", "defense", "seed") if axis in o)
    if stage == "pretrain":
        poison = read(base / "poison" / o["poison"] / "data")
        trained = spec("victims", o["victim"]), spec("defenses", o["defense"]), poison
        write(base / "encoder" / f"{key}.safetensors", *trained)
        write(base / "curve" / f"{key}.csv", "curve")
        write(base / "cost" / f"pretrain-{key}.json", "cost")
    elif stage == "probe":
        encoder = read(base / "encoder" / f"{key}.safetensors")
        write(base / "probe" / f"{key}-{o['downstream']}.json", spec("protocols", o["protocol"]), encoder)
        write(base / "cost" / f"probe-{key}-{o['downstream']}.json", "cost")
    elif stage == "floor":
        untrained = spec("victims", o["victim"])
        write(base / "floor" / f"{key}-{o['downstream']}.json", spec("protocols", o["protocol"]), untrained)
        write(base / "cost" / f"floor-{key}-{o['downstream']}.json", "cost")
    else:
        sys.exit(f"unknown stage {stage}")
"""


class Repository:
    """A DVC repository and what ran in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> str:
        """Run a command in the repository and return what it printed."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, cwd=self.root, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def repro(self) -> set[str]:
        """Run ``dvc repro`` and return what ran below the stage ``validate``, in short."""
        log = self.root / "calls.log"
        log.unlink(missing_ok=True)
        self.run("dvc", "repro", "--quiet")
        return {_short(line) for line in log.read_text().splitlines()} - {"validate"} if log.exists() else set()

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        target = self.root / file
        text = target.read_text()
        assert old in text, f"{file} does not hold {old!r}"
        target.write_text(text.replace(old, new))

    def choose(self, study: str) -> None:
        """Do what ``python -m engine study NAME`` does."""
        file = self.root / "dvc.yaml"
        file.write_text(STUDY_LINE.sub(rf"\g<1>{study}\g<3>", file.read_text(), count=1))


def _short(call: str) -> str:
    stage, *options = call.split()
    named = dict(zip(options[::2], options[1::2], strict=True))
    axes = ("--name", "--poison", "--victim", "--defense", "--seed", "--downstream")
    return stage + "".join(f" {named[axis]}" for axis in axes if axis in named)


STUDY = """
study:
  name: small
  dataset: digits
  poisons:
    clean: {attack: clean, init: zero}
    cp_c: {attack: cp_class, init: uniform}
    cp_s: {attack: cp_sample, init: cp_c}
  victims: [simclr_mini]
  defenses: [none]
  downstream: [digits]
  seeds: [0]
  protocol: banked
"""


def cell_of(poison: str, victim: str = "simclr_mini") -> set[str]:
    return {f"pretrain {poison} {victim} none 0", f"probe {poison} {victim} none 0 digits"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the study ``small`` has run."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(PROJECT / "specs", root / "specs")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, root / name)
    (root / "specs/studies/small.yaml").write_text(STUDY)
    (root / "specs/studies/other.yaml").write_text(STUDY.replace("small", "other").replace("seeds: [0]", "seeds: [7]"))
    (root / "engine").mkdir()
    (root / "engine/__main__.py").write_text(STAND_IN)
    shutil.copy(PROJECT / "engine/numerics.yaml", root / "engine/numerics.yaml")
    repository = Repository(root)
    repository.run("git", "init", "--quiet")
    repository.run("dvc", "init", "--quiet")
    shutil.copy(PROJECT / ".dvc/config", root / ".dvc/config")
    shutil.copy(PROJECT / ".gitignore", root / ".gitignore")
    repository.choose("small")
    everything = set().union(*(cell_of(poison) for poison in ("clean", "cp_c", "cp_s")))
    everything |= {"generate clean", "generate cp_c", "generate cp_s", "floor simclr_mini 0 digits", "report"}
    assert repository.repro() == everything
    return root


@pytest.fixture
def repository(finished: Path, tmp_path: Path) -> Repository:
    """A copy of the finished repository."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return Repository(tmp_path / "copy")


def test_nothing_runs_twice(repository: Repository) -> None:
    assert repository.repro() == set()


def test_a_comment_and_the_order_of_keys_rerun_nothing(repository: Repository) -> None:
    repository.edit("specs/attacks/cp_sample.yaml", "rounds:", "# a remark\nrounds:")
    victim = repository.root / "specs/victims/simclr_mini.yaml"
    victim.write_text("\n".join(reversed(victim.read_text().splitlines())) + "\n")
    assert repository.repro() == set()


def test_an_attack_reruns_its_poison_and_its_cells_alone(repository: Repository) -> None:
    repository.edit("specs/attacks/cp_sample.yaml", "8/255", "4/255")
    assert repository.repro() == {"generate cp_s", *cell_of("cp_s"), "report"}


def test_a_poison_that_starts_from_another_follows_it(repository: Repository) -> None:
    repository.edit("specs/attacks/cp_class.yaml", "8/255", "4/255")
    expected = {"generate cp_c", "generate cp_s", *cell_of("cp_c"), *cell_of("cp_s"), "report"}
    assert repository.repro() == expected


def test_a_reverted_edit_comes_back_from_the_run_cache(repository: Repository) -> None:
    repository.edit("specs/attacks/cp_sample.yaml", "8/255", "4/255")
    repository.repro()
    repository.edit("specs/attacks/cp_sample.yaml", "4/255", "8/255")
    assert repository.repro() <= {"report"}


def test_a_new_victim_leaves_the_other_cells_cached(repository: Repository) -> None:
    shutil.copy(repository.root / "specs/victims/simclr_mini.yaml", repository.root / "specs/victims/second.yaml")
    repository.edit("specs/studies/small.yaml", "[simclr_mini]", "[simclr_mini, second]")
    new = set().union(*(cell_of(poison, "second") for poison in ("clean", "cp_c", "cp_s")))
    assert repository.repro() == {*new, "floor second 0 digits", "report"}


def test_switching_studies_and_back_restores_from_the_run_cache(repository: Repository) -> None:
    repository.choose("other")
    ran = repository.repro()
    assert not any(call.startswith("generate") for call in ran), "both studies share their poisons"
    assert {"pretrain cp_s simclr_mini none 7", "report"} <= ran
    repository.choose("small")
    assert repository.repro() <= {"report"}


def test_the_probe_protocol_reruns_probes_alone(repository: Repository) -> None:
    repository.edit("specs/protocols/banked.yaml", "copies: 10", "copies: 5")
    probes = {f"probe {poison} simclr_mini none 0 digits" for poison in ("clean", "cp_c", "cp_s")}
    assert repository.repro() == {*probes, "floor simclr_mini 0 digits", "report"}


def test_the_layout_reruns_nothing(repository: Repository) -> None:
    repository.edit("specs/layouts/local.yaml", "device: auto", "device: cpu")
    assert repository.repro() == set()


def test_a_new_version_of_a_stage_reruns_that_stage_and_those_below(repository: Repository) -> None:
    version = re.search(r"pretrain: \d+", (PROJECT / "engine/numerics.yaml").read_text())
    assert version is not None
    repository.edit("engine/numerics.yaml", version[0], "pretrain: 99")
    cells_below = set().union(*(cell_of(poison) for poison in ("clean", "cp_c", "cp_s")))
    assert repository.repro() == {*cells_below, "report"}


def test_dvc_expands_every_study_to_the_cells_that_the_engine_names(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.root)
    studies = names("studies")
    assert {"quickstart", "mini/table1"} <= set(studies)
    for name in studies:
        repository.choose(name)
        listed = repository.run("dvc", "stage", "list", "--name-only").split()
        study = load_study(name)
        expected = {f"pretrain@{cell.key}" for cell in cells(study)}
        expected |= {f"generate@{poison}" for poison in study.poisons}
        expected |= {f"probe@{cell.key}-{downstream}" for cell in cells(study) for downstream in study.downstream}
        expected |= {f"floor@{v}-{s}-{d}" for v in study.victims for s in study.seeds for d in study.downstream}
        assert set(listed) == expected | {"validate", "report"}
        assert len(listed) == len(set(listed))


def test_metrics_and_plots_are_declared(repository: Repository) -> None:
    shown = repository.run("dvc", "plots", "show", "--json")
    assert "artifacts/digits/curve" in shown


def test_telemetry_is_off(repository: Repository) -> None:
    config = repository.run("dvc", "config", "--list", "--project")
    assert "core.analytics=false" in config
    assert "core.check_update=false" in config
