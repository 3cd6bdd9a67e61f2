"""Pretraining hands a learner the same images from memory and from files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from engine import plugins, streaming
from engine.artifacts import ArtifactError, write_poison
from engine.artifacts.encoder import read_encoder
from engine.errors import EngineError
from engine.metering import cpu_name
from engine.protocols import Defense, DefenseContext, ImageSet, Poison
from engine.randomness import stream
from engine.stages.dispatch import dispatch
from engine.stages.pretrain import pretrain_job
from engine.study import Cell, poison_path
from tests.making import about

CELL = Cell("tiny", "noise", "tiny", "none", 0)
LAYOUTS = {
    "resident": "kind: local\ndevice: cpu\n",
    "alone": "kind: local\ndevice: cpu\nresident_gb: 0\nworkers: 0\n",
    "helped": "kind: local\ndevice: cpu\nresident_gb: 1.0e-6\nworkers: 2\n",
}
VICTIM = """
kind: simclr
backbone: {kind: resnet18, width: 4, stages: [1]}
views: {size: 8}
batch_size: 8
epochs: 2
warmup_epochs: 1
"""


@pytest.fixture
def released(project: Path) -> Path:
    """The folder of a poison of 20 images of noise, with the specs to train on it."""
    images_u8 = torch.randint(0, 256, (20, 3, 8, 8), generator=stream(0, "images"), dtype=torch.uint8)
    images = ImageSet(images_u8, torch.arange(20) % 2, ("a", "b"))
    folder = poison_path(CELL.dataset, CELL.poison)
    write_poison(
        folder,
        clean=images,
        released=images,
        poison=Poison(torch.zeros(2, 3, 8, 8, dtype=torch.int8), "class", unit=1 / 255),
        perturbed=torch.ones(20, dtype=torch.bool),
        about=about(),
    )
    (project / "specs/victims/tiny.yaml").write_text(VICTIM)
    for name, text in LAYOUTS.items():
        (project / f"specs/layouts/{name}.yaml").write_text(text)
    return folder


def test_resident_and_streamed_images_give_the_same_encoder(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = []
    original = streaming.streamed
    monkeypatch.setattr(
        streaming, "streamed", lambda *images, **how: streams.append(how["workers"]) or original(*images, **how)
    )
    made = {}
    for layout in LAYOUTS:
        dispatch(pretrain_job(CELL, "fp32"), layout)
        made[layout] = (CELL.encoder.read_bytes(), CELL.curve.read_bytes())
        CELL.encoder.unlink()
    assert streams == [0, 2]
    assert made["resident"] == made["alone"] == made["helped"]
    assert list(streaming.SCRATCH.iterdir()) == []


def test_the_time_of_an_epoch_is_kept_beside_the_encoder(released: Path) -> None:
    dispatch(pretrain_job(CELL, "fp32"), "resident")
    cost = json.loads(CELL.cost.read_text())
    assert cost["device"] == cpu_name()
    assert 0 < 2 * cost["seconds_per_epoch"] < cost["seconds"] < 60
    assert cost["processes"] == 1
    assert 1e6 < cost["peak_memory_bytes"] < 1e11


def test_an_encoder_says_of_what_it_was_made(released: Path) -> None:
    _, about = read_encoder(dispatch(pretrain_job(CELL, "fp32"), "alone"))
    assert (about["victim"]["name"], about["defense"]["name"], about["poison"]["name"]) == ("tiny", "none", "noise")
    assert about["victim"]["spec"]["batch_size"] == 8
    assert about["source"] == {"mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 2}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_noticed_before_anything_is_read(released: Path, layout: str) -> None:
    file = released / "train-00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"train-00000\.parquet differs from the checksum"):
        dispatch(pretrain_job(CELL, "fp32"), layout)
    assert not streaming.SCRATCH.exists()


class Inverted(Defense):
    """A defense that inverts every image."""

    changes_dataset = True

    def on_dataset(self, images: ImageSet, context: DefenseContext) -> ImageSet:
        return dataclasses.replace(images, images_u8=255 - images.images_u8)


def test_a_defense_that_changes_the_data_set_needs_it_resident(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undefended = dispatch(pretrain_job(CELL, "fp32"), "resident").read_bytes()
    build = plugins.build
    monkeypatch.setattr(
        plugins,
        "build",
        lambda group, spec, **context: Inverted() if group == "defenses" else build(group, spec, **context),
    )
    assert dispatch(pretrain_job(CELL, "fp32"), "resident").read_bytes() != undefended
    with pytest.raises(
        EngineError, match=r"defense 'none' changes the whole data set.* raise the layout's resident_gb"
    ):
        dispatch(pretrain_job(CELL, "fp32"), "helped")


def test_an_error_in_training_leaves_no_scratch_file(released: Path) -> None:
    victim = Path("specs/victims/tiny.yaml")
    victim.write_text(victim.read_text().replace("batch_size: 8", "batch_size: 21"))
    with pytest.raises(EngineError, match="20 images are fewer than one batch of 21"):
        dispatch(pretrain_job(CELL, "fp32"), "alone")
    assert list(streaming.SCRATCH.iterdir()) == []
    assert not CELL.encoder.exists()
