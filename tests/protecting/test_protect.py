"""`engine protect` from a folder to its verdict, with learners that train for seconds."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.artifacts.files import alone
from engine.errors import EngineError
from engine.images import upright_rgb
from engine.protecting.protect import SCRATCH, Request
from engine.protecting.protect import protect as protect_folder
from engine.protecting.recipes import Changes
from engine.protecting.upsample import max_difference
from tests.protecting.folders import BROKEN, add_broken, picture
from tests.smallproject import BACKBONE, run, small_project

TRAINED = f"backbone: {BACKBONE}\nviews: {{size: 8}}\nbatch_size: 16\nepochs: 3\nwarmup_epochs: 1\n"
STUDY = """study:
  name: {name}
  dataset: owner
  poisons:
    clean: {{attack: clean, init: zero}}
    kept: {{attack: {attack}, init: uniform}}
  victims: [tiny_simclr, tiny_supervised]
  defenses: [none, grayscale]
  downstream: [owner]
  seeds: [0]
  protocol: banked
"""
ATTACK = (
    "kind: contrastive_poisoning\nepsilon: 12/255\ngranularity: sample\nrounds: 2\nmodel_steps: 9\n"
    f"noise_steps: 9\npgd_steps: 1\nsurrogate:\n  kind: simclr\n  backbone: {BACKBONE}\n"
    "  views: {size: 8}\n  batch_size: 16\n"
)
SPECS = {
    "attacks/tiny_sample.yaml": ATTACK,
    "attacks/tiny_class.yaml": ATTACK.replace("granularity: sample", "granularity: class"),
    "victims/tiny_simclr.yaml": f"kind: simclr\n{TRAINED}",
    "victims/tiny_supervised.yaml": f"kind: supervised\n{TRAINED}".replace("{size: 8}", "{preset: weak, size: 8}")
    + "lr: 0.05\n",
    "studies/tiny_sample.yaml": STUDY.format(name="tiny_sample", attack="tiny_sample"),
    "studies/tiny_class.yaml": STUDY.format(name="tiny_class", attack="tiny_class"),
    "datasets/owner.yaml": "kind: imagefolder\npath: owner\nimage_size: 8\ntest_fraction: 0.2\n",
}
RELEASES = {"released", "jpeg_75", "jpeg_50", "resized", "half_released"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose recipes take seconds."""
    root = small_project(tmp_path / "project")
    for name, text in SPECS.items():
        (root / "specs" / name).write_text(text)
    return root


def owned(folder: Path, *, classes: bool = True, square: bool = False) -> Path:
    """Write sixty images of three colours in several formats; return the folder."""
    for number in range(60):
        name = folder / "rgb"[number % 3] / str(number) if classes else folder / str(number)
        name.parent.mkdir(parents=True, exist_ok=True)
        width, height = (8, 8) if square else (8 + number, 50 - number // 2)
        image = Image.blend(
            picture(number, width, height), Image.new("RGB", (width, height), ("red", "green", "blue")[number % 3]), 0.4
        )
        image.save(f"{name}.{'png' if square else ('jpg', 'png', 'gif', 'webp', 'tif')[number % 5]}")
    return folder


def protect(root: Path, folder: Path, *options: str) -> str:
    done = run(root, sys.executable, "-m", "engine", "protect", str(folder), "--output", str(root / "out"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scratch_of(folder: Path) -> Path:
    """Return the one scratch project that a run left."""
    (found,) = (folder.parent / SCRATCH).iterdir()
    return found


def verdict(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "out/verdict.json").read_text())
    return content


def encoders(root: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in root.rglob("*.safetensors") if "encoder" in file.parts}


@pytest.mark.slow
def test_a_mixed_folder_with_classes_ends_with_protected_files_and_a_verdict(root: Path) -> None:
    folder = owned(root / "mine")
    add_broken(folder / "r")
    page = protect(root, folder, "--recipe", "tiny_sample")
    assert page.endswith((root / "out/verdict.md").read_text())
    record, said = json.loads((root / "out/protected.json").read_text()), verdict(root)
    assert (said["protected"], len(record["images"]), said["max_level"]) == (60, 60, 12)
    assert {each["name"] for each in said["broken"]} == {f"r/{name}" for name in BROKEN}
    assert all(f"- r/{name}: " in page for name in BROKEN)
    for each in record["images"]:
        with Image.open(folder / each["name"]) as before, Image.open(root / "out/images" / each["new_name"]) as after:
            difference = max_difference(np.asarray(upright_rgb(before)), np.asarray(after))
        assert 0 < difference == each["max_difference"] <= 12
    rows = {(row["learner"], row["release"], row["defense"]): row for row in said["readings"]}
    for learner in ("tiny_simclr", "tiny_supervised"):
        assert {release for name, release, _ in rows if name == learner} >= {"untrained", "clean", *RELEASES}
    assert ("tiny_simclr", "released", "grayscale") in rows
    assert all(0 <= row["knn"] <= 100 and row["test_images"] == 12 for row in rows.values())
    assert {finding["learner"] for finding in said["findings"]} == {"tiny_simclr", "tiny_supervised"}

    before = encoders(root)
    assert len(before) == 14  # two learners on six releases, one of them once more and once under a defense
    (root / "out/verdict.json").unlink()
    assert protect(root, folder, "--recipe", "tiny_sample").endswith(page[page.index("# Verdict") :])
    assert encoders(root) == before
    assert verdict(root) == said


@pytest.mark.slow
def test_images_of_the_working_size_give_the_accuracies_of_a_study_to_the_digit(root: Path) -> None:
    folder, kept = owned(root / "mine", square=True), owned(root / "kept", square=True)
    protect(root, folder, "--recipe", "tiny_sample", "--judge-on", str(kept))
    ours = {
        (row["learner"], row["release"]): (row["linear"], row["knn"], row.get("head"))
        for row in verdict(root)["readings"]
        if row["defense"] == "none"
    }
    theirs, scratch = root / "theirs", scratch_of(folder)
    shutil.copytree(scratch / "specs", theirs / "specs")
    shutil.copy(root / "params.yaml", theirs)
    data = json.loads((scratch / "specs/datasets/owner.yaml").read_text().partition("\n")[2])
    (theirs / "specs/datasets/owner.yaml").write_text(json.dumps({**data, "path": str(theirs / "pictures")}))
    shutil.copytree(folder, theirs / "pictures/train")
    shutil.copytree(kept, theirs / "pictures/test")
    commands = [
        f"generate --dataset owner --name {name} --attack {attack} --init {init}"
        for name, attack, init in (("clean", "clean", "zero"), ("kept", "tiny_sample", "uniform"))
    ]
    for learner, name in itertools.product(("tiny_simclr", "tiny_supervised"), ("clean", "kept")):
        cell = f"--dataset owner --poison {name} --victim {learner} --defense none --seed 0"
        commands += [f"pretrain {cell}", f"probe {cell} --downstream owner --protocol banked"]
    in_one_process = "import sys\nfrom engine.cli import app\nfor line in sys.argv[1:]:\n"
    done = run(theirs, sys.executable, "-c", f"{in_one_process} app(line.split(), standalone_mode=False)", *commands)
    assert done.returncode == 0, done.stderr
    for learner, name in itertools.product(("tiny_simclr", "tiny_supervised"), ("clean", "kept")):
        read = json.loads((theirs / f"artifacts/owner/probe/{name}-{learner}-none-0-owner.json").read_text())
        release = {"clean": "clean", "kept": "released"}[name]
        assert ours[learner, release] == (read["linear"], read["knn"], read["head"])


@pytest.mark.slow
def test_without_classes_clusters_stand_for_them_and_the_verdict_says_so(root: Path) -> None:
    folder = owned(root / "mine", classes=False)
    page = protect(root, folder, "--recipe", "tiny_class", "--epsilon", "6/255")
    said = verdict(root)
    assert said["max_level"] == 6
    assert "clusters of features that tiny_simclr learnt from the originals, starting from random weights" in page
    assert {row["learner"] for row in said["readings"]} == {"tiny_simclr"}
    labels = json.loads((scratch_of(folder) / "clusters.json").read_text())["labels"]
    assert len(labels) == 60
    assert len(set(labels)) >= 2


def test_without_a_verdict_nothing_is_trained_but_the_noise(root: Path) -> None:
    folder = owned(root / "mine")
    picture(0, 20, 20).save(folder / "alone.png")  # in no class, so that there are none
    page = protect(root, folder, "--recipe", "tiny_sample", "--no-verdict")
    assert page.splitlines()[-1].startswith("61 images protected in ")
    assert encoders(root) == {}
    assert sorted(path.name for path in (root / "out").iterdir()) == ["images", "protected.json"]


def test_without_a_verdict_a_class_may_have_one_image(root: Path) -> None:
    folder = owned(root / "mine")
    (folder / "single").mkdir()
    picture(0, 20, 20).save(folder / "single/1.png")
    page = protect(root, folder, "--recipe", "tiny_class", "--no-verdict")
    assert page.splitlines()[-1].startswith("61 images protected in ")
    assert len(list((root / "out/images").rglob("*.png"))) == 61 - 12  # every fifth is a WebP file and stays one


def test_requests_that_cannot_be_meant_are_errors_that_say_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    folder, halves = owned(root / "mine"), root / "halves"

    def complaint(**changes: Any) -> str:
        request = Request(folder, root / "out", "tiny_sample", Changes())
        with pytest.raises(EngineError) as caught:
            protect_folder(replace(request, **changes))
        return str(caught.value)

    assert "lie in each other" in complaint(output=folder / "out")
    assert "lie in each other" in complaint(output=root)
    assert "holds other files" in complaint(output=root / "specs")
    (root / "site/images").mkdir(parents=True)
    picture(0, 20, 20).save(root / "site/images/a.png")
    assert "holds other files" in complaint(output=root / "site")
    assert (root / "site/images/a.png").is_file()
    assert "is a file" in complaint(output=root / "params.yaml")
    assert "there is no folder" in complaint(folder=root / "nowhere")
    assert "larger batches than there are images" in complaint(recipe="protect")
    assert "'8/0' is neither a number nor a fraction" in complaint(changes=Changes(epsilon="8/0"))
    (root / "theirs").mkdir()
    (root / "theirs/protected.json").write_text('{"folder": "/elsewhere"}')
    assert "holds the protected images of /elsewhere" in complaint(output=root / "theirs")
    halves.mkdir()
    for half in ("train", "test"):
        shutil.copytree(folder, halves / half)
    assert f"--judge-on {halves}/test" in complaint(folder=halves)
    (folder / "r").rename(folder / "s")
    assert "one folder per class, the same ones in both" in complaint(judges=halves / "test")
    assert not (root / "out").exists()


def test_a_second_run_on_the_folder_is_refused_while_the_first_one_lasts(root: Path) -> None:
    folder = owned(root / "mine")
    protect(root, folder, "--recipe", "tiny_sample", "--no-verdict")
    scratch = scratch_of(folder)
    shutil.rmtree(root / "out")
    shutil.rmtree(scratch / "specs")
    command = (sys.executable, "-m", "engine", "protect", str(folder), "--output", str(root / "out"), "--no-verdict")
    with alone(scratch / "lock", "unheard"):
        second = run(root, *command, "--recipe", "tiny_class")
    assert second.returncode == 1
    assert f"another `engine protect` works on {folder} (process {os.getpid()}); wait for it" in second.stderr
    assert not (root / "out").exists()
    assert not (scratch / "specs").exists()
