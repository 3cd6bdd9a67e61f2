"""What is exported in any form and imported again is the same poison, and verifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from engine.artifacts import read_poison
from engine.artifacts.comparing import compare
from engine.cli import app
from engine.exporting import export, known_forms
from engine.importing import ImportFault
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.inputs import load_dataset
from engine.study import poison_path
from engine.verifying import verify

SPECS = {
    "datasets/photos": "kind: imagefolder\npath: photos\nimage_size: 8\ntest_fraction: 0.2\n",
    "attacks/noise": "kind: random_noise\nepsilon: 8/255\n",
    "attacks/class": "kind: random_noise\nepsilon: 8/255\ngranularity: class\n",
    "attacks/rest": "kind: clean_remainder\npoison_fraction: 0.5\n",
    "layouts/local": "kind: local\ndevice: cpu\n",
}
ENDINGS = {"official": ".pth", "npz": ".npz"}


@pytest.fixture
def photos(project: Path) -> Path:
    """A project with a data set of files."""
    for name, text in SPECS.items():
        (project / f"specs/{name}.yaml").write_text(text)
    draws = np.random.default_rng(0)
    for row in range(30):
        file = project / "data/photos" / ("cat", "dog", "tree")[row % 3] / f"holiday {row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    return project


def make(attack: str) -> Path:
    return dispatch(generate_job("photos", attack, attack, "zero", "fp32"), "local")


def bring_in(source: Path, *options: str) -> tuple[int, str]:
    command = ["import", str(source), "--dataset", "photos", "--name", "theirs", *options]
    done = CliRunner().invoke(app, command)
    return done.exit_code, done.output + str(done.exception or "")


@pytest.mark.parametrize("attack", ["noise", "class", "rest"])
@pytest.mark.parametrize("form", known_forms())
def test_a_poison_comes_back_as_it_went(photos: Path, form: str, attack: str) -> None:
    ours = make(attack)
    target = Path(f"data/out{ENDINGS.get(form, '')}")
    if (form, attack) == ("official", "rest"):
        pytest.skip("a perturbation cannot say which images are withheld")
    export(ours, form, target)
    status, said = bring_in(target, *(["--partial"] if attack == "rest" else []))
    assert status == 0, said
    assert "theirs: {attack: theirs, init: zero}" in said
    theirs = poison_path("photos", "theirs")
    assert verify(theirs, load_dataset("photos")[1]).is_good
    found = compare(ours, theirs)
    assert (found.changed, found.relabelled, found.only) == ([], [], (0, 0))
    one, other = read_poison(ours), read_poison(theirs)
    assert torch.equal(one.images.images_u8, other.images.images_u8)
    assert torch.equal(one.rows, other.rows)
    assert one.images.names == other.images.names != ()
    spec = (photos / "specs/attacks/theirs.yaml").read_text()
    assert f"path: out{ENDINGS.get(form, '')}\n" in spec  # below the data root


def test_a_poison_that_does_not_fit_leaves_no_spec_and_no_artifact(photos: Path) -> None:
    export(make("noise"), "npz", Path("elsewhere.npz"))
    status, said = bring_in(Path("elsewhere.npz"), "--epsilon", "4/255")
    assert status == 1
    assert "by more than 4 grey levels" in said
    assert not (photos / "specs/attacks/theirs.yaml").exists()
    assert not poison_path("photos", "theirs").exists()


def test_mistakes_in_the_command_are_told(photos: Path) -> None:
    export(make("noise"), "npz", Path("elsewhere.npz"))
    assert "there is no file or folder" in bring_in(Path("nothing.npz"))[1]
    for option, value in (("--match", "closest"), ("--layout", "hdf5"), ("--epsilon", "eight")):
        status, said = bring_in(Path("elsewhere.npz"), option, value)
        assert (status, "SpecFault" in said or value in said) == (1, True)
        assert not (photos / "specs/attacks/theirs.yaml").exists()
    (photos / "specs/attacks/theirs.yaml").write_text(SPECS["attacks/noise"])
    assert "declares another attack" in bring_in(Path("elsewhere.npz"))[1]
    assert (photos / "specs/attacks/theirs.yaml").read_text() == SPECS["attacks/noise"]


def test_a_file_that_changed_since_is_not_taken(photos: Path) -> None:
    export(make("noise"), "npz", Path("data/out.npz"))
    assert bring_in(Path("data/out.npz"))[0] == 0
    with Path("data/out.npz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ImportFault, match="import it again"):
        dispatch(generate_job("photos", "theirs", "theirs", "zero", "fp32"), "local")
