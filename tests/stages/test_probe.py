"""An encoder is judged on data sets, and a supervised learner by its own classifier where the classes are its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.artifacts.encoder import read_classifier, read_encoder
from engine.protocols import Source
from engine.randomness import stream
from engine.specfiles import load
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.inputs import load_dataset
from engine.stages.pretrain import fresh_victim, pretrain_job
from engine.stages.probe import floor_job, probe_job
from engine.stages.validate import validate
from engine.study import Cell

LEARNER = """
backbone: {kind: resnet18, width: 4, stages: [1]}
views: {preset: weak, size: 12, padding: 1}
batch_size: 16
epochs: 2
lr: 0.05
warmup_epochs: 1
"""
SPECS = {
    "studies/tiny": """
study:
  name: tiny
  dataset: tiny_scenes
  poisons: {clean: {attack: clean, init: zero}}
  victims: [taught, untaught]
  defenses: [none]
  downstream: [tiny_scenes, digits_12]
  seeds: [0]
  protocol: banked
""",
    "datasets/tiny_scenes": "kind: scenes\nimage_size: 12\ntrain_per_class: 8\ntest_per_class: 5\n",
    "datasets/digits_12": "kind: digits\nimage_size: 12\ntrain_per_class: 6\ntest_per_class: 4\n",
    "victims/taught": f"kind: supervised\n{LEARNER}",
    "victims/untaught": f"kind: simclr\n{LEARNER}",
    "protocols/banked": "linear: {epochs: 2, copies: 1}\n",
    "layouts/local": "kind: local\ndevice: cpu\n",
}


@pytest.fixture
def trained(project: Path) -> Path:
    """A project in which both learners were trained on a few scenes."""
    for name, text in SPECS.items():
        (project / f"specs/{name}.yaml").write_text(text)
    validate("tiny")
    dispatch(generate_job("tiny_scenes", "clean", "clean", "zero", "fp32"), "local")
    for victim in ("taught", "untaught"):
        dispatch(pretrain_job(cell_of(victim), "fp32"), "local")
    return project


def cell_of(victim: str) -> Cell:
    return Cell("tiny_scenes", "clean", victim, "none", 0)


def judged(victim: str, downstream: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        dispatch(probe_job(cell_of(victim), downstream, "banked"), "local").read_text()
    )
    return content


def test_the_head_is_the_stored_classifiers_accuracy_on_the_clean_test_images(trained: Path) -> None:
    file = cell_of("taught").encoder
    weights, (state, about) = read_classifier(file), read_encoder(file)
    assert weights is not None
    victim = fresh_victim(load("victims", "taught"), Source(**about["source"]), seed=9)
    victim.encoder.load_state_dict(state)
    victim.encoder.eval()
    test = load_dataset("tiny_scenes")[1].test
    logits = torch.nn.functional.linear(victim.encoder(test.images_u8 / 255), weights["weight"], weights["bias"])
    expected = (logits.argmax(dim=1) == test.labels).float().mean().item()
    assert judged("taught", "tiny_scenes")["head"] == pytest.approx(100 * expected, abs=1e-3)
    untrained = fresh_victim(load("victims", "taught"), Source(**about["source"]), seed=0).classifier
    assert untrained is not None
    assert not torch.equal(weights["weight"], untrained.state_dict()["weight"])


def test_other_classes_and_other_learners_have_no_head(trained: Path) -> None:
    assert judged("taught", "digits_12")["head"] is None
    assert judged("untaught", "tiny_scenes")["head"] is None
    assert read_classifier(cell_of("untaught").encoder) is None


def test_an_encoder_is_probed_on_other_classes_at_its_own_size(trained: Path) -> None:
    digits = load_dataset("digits_12")[1]  # drawn with 8 x 8 pixels
    assert digits.train.images_u8.shape == (60, 3, 12, 12)
    assert digits.train.class_names != load_dataset("tiny_scenes")[1].train.class_names
    found = judged("untaught", "digits_12")
    assert (found["train_images"], found["test_images"], found["train_set"]) == (60, 40, "clean")
    assert found["knn"] > 0
    assert found == judged("untaught", "digits_12")


def test_the_floor_is_judged_like_the_cells(trained: Path) -> None:
    found = {
        (victim, downstream): json.loads(
            dispatch(floor_job("tiny_scenes", victim, 0, downstream, "banked"), "local").read_text()
        )
        for victim in ("taught", "untaught")
        for downstream in ("tiny_scenes", "digits_12")
    }
    assert 0 <= found["taught", "tiny_scenes"]["head"] <= 100
    assert [found[key]["head"] for key in found if key != ("taught", "tiny_scenes")] == [None] * 3
    assert {*found["taught", "tiny_scenes"], "view_distances"} == judged("taught", "tiny_scenes").keys()


@pytest.mark.parametrize("victim", ["taught", "untaught"])
def test_distances_of_views_are_those_of_the_stored_encoders_features(trained: Path, victim: str) -> None:
    distances = judged(victim, "tiny_scenes")["view_distances"]
    assert distances["edges"] == [pytest.approx(edge / 50) for edge in range(101)]
    assert distances["released"] == distances["clean"]  # of a clean poison
    state, about = read_encoder(cell_of(victim).encoder)
    network = fresh_victim(load("victims", victim), Source(**about["source"]), seed=9)
    network.encoder.load_state_dict(state)
    network.encoder.eval()
    images = load_dataset("tiny_scenes")[1].train.images_u8 / 255  # fewer than are drawn: all, in their order
    draws = stream(0, "distances", "views")
    za, zb = (network.encoder(network.views[index % len(network.views)](draws, images)) for index in range(2))
    cosines = [torch.dot(a / a.norm(), b / b.norm()).item() for a, b in zip(za, zb, strict=True)]
    expected = [0] * 100
    for cosine in cosines:
        expected[min(max(int((1 - cosine) * 50), 0), 99)] += 1
    assert sum(distances["released"]) == 80
    # An image at an edge may fall on either side of it.
    assert sum(abs(a - b) for a, b in zip(expected, distances["released"], strict=True)) <= 2


def test_poisoned_views_are_compared_with_clean_ones_and_other_data_sets_with_none(trained: Path) -> None:
    (trained / "specs/attacks/loud.yaml").write_text("kind: random_noise\nepsilon: 0.4\n")
    dispatch(generate_job("tiny_scenes", "loud", "loud", "zero", "fp32"), "local")
    cell = Cell("tiny_scenes", "loud", "untaught", "none", 0)
    dispatch(pretrain_job(cell, "fp32"), "local")
    (trained / "specs/protocols/poisoned.yaml").write_text("train_set: poisoned\nlinear: {epochs: 2, copies: 1}\n")
    found = [
        json.loads(dispatch(probe_job(cell, "tiny_scenes", protocol), "local").read_text())["view_distances"]
        for protocol in ("banked", "poisoned")
    ]
    assert found[0] == found[1]
    assert found[0]["released"] != found[0]["clean"]
    assert [sum(found[0][name]) for name in ("released", "clean")] == [80, 80]
    assert judged("untaught", "digits_12")["view_distances"] is None


def test_at_most_so_many_images_are_looked_at(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.stages.probe.MOST_IMAGES", 7)
    found = judged("untaught", "tiny_scenes")["view_distances"]
    assert [sum(found[name]) for name in ("released", "clean")] == [7, 7]
