"""Released images are matched with their originals, and looking at both changes no training."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.artifacts import read_manifest, read_poison
from engine.protocols import MEASURES
from engine.randomness import stream
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.inputs import load_dataset
from engine.stages.originals import originals, some_images
from engine.stages.pretrain import _Clock, pretrain_job
from engine.study import Cell, poison_path
from engine.training.measures import Measures

SPECS = {
    "datasets/few": "kind: digits\nimage_size: 8\ntrain_per_class: 4\ntest_per_class: 1\n",
    "attacks/all": "kind: random_noise\nepsilon: 16/255\n",
    "attacks/some": "kind: random_noise\nepsilon: 16/255\npoison_fraction: 0.5\n",
    "attacks/rest": "kind: clean_remainder\npoison_fraction: 0.5\n",
    "attacks/none": "kind: clean\n",
    "victims/tiny": "kind: simclr\nbackbone: {kind: resnet18, width: 4, stages: [1]}\nviews: {size: 8}\n"
    "batch_size: 8\nepochs: 3\nwarmup_epochs: 1\n",
    "layouts/local": "kind: local\ndevice: cpu\n",
}
POISONS = ("all", "some", "rest", "none")


@pytest.fixture
def made(project: Path) -> Path:
    """A project with a data set of 40 digits and four poisons of it."""
    for name, text in SPECS.items():
        (project / f"specs/{name}.yaml").write_text(text)
    for name in POISONS:
        dispatch(generate_job("few", name, name, "zero", "fp32"), "local")
    return project


def cell_of(poison: str) -> Cell:
    return Cell("few", poison, "tiny", "none", 0)


def images_of(poison: str, most: int = 12) -> dict[str, torch.Tensor]:
    cell = cell_of(poison)
    manifest = read_manifest(poison_path("few", poison))
    return some_images(cell, manifest, originals(cell), most, stream(0, "test"))


def curve_of(poison: str) -> list[dict[str, str]]:
    with cell_of(poison).curve.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("poison", POISONS)
def test_every_released_image_is_matched_with_its_original(made: Path, poison: str) -> None:
    found, train = images_of(poison), load_dataset("few")[1].train.images_u8
    assert {name: images.shape for name, images in found.items()} == dict.fromkeys(("released", "clean"), (12, 3, 8, 8))
    whole = read_poison(poison_path("few", poison))
    differences = []
    for released, clean in zip(found["released"], found["clean"], strict=True):
        (place,) = (row for row in range(len(whole.rows)) if torch.equal(whole.images.images_u8[row], released))
        assert torch.equal(train[whole.rows[place]], clean)
        differences.append(int((released.int() - clean.int()).abs().max()))
    assert max(differences) == {"all": 16, "some": 16, "rest": 0, "none": 0}[poison]
    assert (min(differences) == 0) == (poison != "all")


def test_withheld_images_shift_no_match(made: Path) -> None:
    rows = read_poison(poison_path("few", "rest")).rows
    assert rows.tolist() != list(range(20))
    found = images_of("rest")
    assert torch.equal(found["released"], found["clean"])


def test_no_more_images_are_drawn_than_there_are(made: Path) -> None:
    assert len(images_of("rest", most=10_000)["clean"]) == 20


def test_the_curve_tells_released_images_and_originals_apart(made: Path) -> None:
    for poison in ("all", "none"):
        dispatch(pretrain_job(cell_of(poison), "fp32"), "local")
        rows = curve_of(poison)
        assert list(rows[0]) == ["epoch", "loss", "lr", *MEASURES]
        assert len(rows) == 3
        same = [row["alignment"] == row["clean_alignment"] for row in rows]
        assert same == [poison == "none"] * 3
        assert all(0 < float(row["alignment"]) < 4 and float(row["uniformity"]) < 0 for row in rows)


def test_measuring_changes_no_encoder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = dispatch(pretrain_job(cell_of("all"), "fp32"), "local").read_bytes()
    monkeypatch.setattr(Measures, "__call__", lambda self, epoch: {})
    assert dispatch(pretrain_job(cell_of("all"), "fp32"), "local").read_bytes() == measured
    assert {row[name] for row in curve_of("all") for name in MEASURES} == {""}


def _remove(project: Path) -> None:
    (project / "specs/datasets/few.yaml").unlink()


def _change(project: Path) -> None:
    (project / "specs/datasets/few.yaml").write_text(
        SPECS["datasets/few"].replace("train_per_class: 4", "train_per_class: 3")
    )


@pytest.mark.parametrize(
    ("harm", "why"), [(_remove, "datasets has no 'few'"), (_change, "all was made of other images")]
)
def test_originals_that_are_not_there_are_said_and_left_out(
    made: Path, harm: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = dispatch(pretrain_job(cell_of("all"), "fp32"), "local").read_bytes()
    whole = curve_of("all")
    harm(made)
    capsys.readouterr()
    assert dispatch(pretrain_job(cell_of("all"), "fp32"), "local").read_bytes() == measured
    assert f"{cell_of('all').key}: clean originals are not measured: " in (printed := capsys.readouterr().out)
    assert why in printed
    assert curve_of("all") == [{**row, "clean_alignment": "", "clean_uniformity": ""} for row in whole]


def test_the_time_of_measuring_belongs_to_no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(100.0, 1.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = _Clock(lambda done, total, note: None)
    measure = clock.apart(lambda epoch: {"looks": next(now)} if epoch != 2 else {})
    for epoch in (1, 2, 3):
        measure(epoch)
        clock(epoch, 3, "")
    # The clock ticks at every look: before a measure, inside of it, after it, and at an epoch's end.
    assert clock.seconds_per_epoch == 2.0
    assert clock.durations == [2.0, 2.0, 2.0]
