"""docs/artifact.md says what is: its fields are the manifest's, and its walk-through runs as it is printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.artifacts.manifest import Manifest
from tests.smallproject import environment

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs/artifact.md").read_text()
STEPS = re.findall(r"<!-- walk-through: (\w+) -->\n```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_explains_every_field_of_the_manifest() -> None:
    table = PAGE.split("## The manifest")[1].split("##")[0]
    named = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    fields = [name for cell in named for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(fields) == sorted(Manifest.model_fields)


def test_the_schema_is_the_manifests() -> None:
    schema = json.loads((PROJECT / "schemas/manifest.json").read_text())
    assert set(schema["properties"]) == set(Manifest.model_fields)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A project under git and DVC, an empty folder elsewhere, and room for a remote."""
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "specs", project / "specs")
    for name in ("dvc.yaml", "params.yaml", ".gitignore", "engine/numerics.yaml"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, project / name)
    few = "kind: scenes\nimage_size: 16\ntrain_per_class: 10\ntest_per_class: 5\n"
    (project / "specs/datasets/scenes.yaml").write_text(few)
    (project / "specs/victims/simclr_quick.yaml").write_text(
        "kind: simclr\nbackbone: {kind: resnet18, width: 4, stages: [1]}\nviews: {size: 16}\nbatch_size: 32\n"
        "epochs: 2\nwarmup_epochs: 1\n"
    )
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=project, check=True, env=environment())
    for name, value in (("user.name", "test"), ("user.email", "test@example.org")):
        subprocess.run(["git", "config", name, value], cwd=project, check=True)
    (tmp_path / "elsewhere").mkdir()
    return {"project": project, "elsewhere": tmp_path / "elsewhere", "storage": tmp_path / "storage"}


@pytest.mark.slow
def test_the_walk_through_runs_as_it_is_printed(places: dict[str, Path]) -> None:
    assert [(place, language) for place, language, _ in STEPS] == [
        ("project", "sh"),
        ("project", "sh"),
        ("elsewhere", "sh"),
        ("elsewhere", "python"),
    ]
    surroundings = environment() | {"PROJECT": str(places["project"]), "STORAGE": str(places["storage"])}
    printed = []
    for place, language, text in STEPS:
        # As `python` in a shell finds it: that of the engine's environment.
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=places[place], env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, text + done.stdout + done.stderr
        printed.append(done.stdout)
    versions = [json.loads((places["elsewhere"] / f"noise-v{at}/manifest.json").read_text()) for at in (1, 2)]
    assert [version["epsilon"] for version in versions] == [16 / 255, 4 / 255]
    assert "the same: 100 images" in printed[2]
    assert "attack.spec.epsilon" in printed[2]
    assert "100 of 100 images differ" in printed[2]
    assert printed[3].endswith("100 4\n")
