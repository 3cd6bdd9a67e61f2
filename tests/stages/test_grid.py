"""What is wrong between specs: named with the place in the study, and with what would fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.specfiles import load
from engine.stages.validate import check
from engine.study import load_study

STUDY = """
study:
  name: mine
  dataset: {dataset}
  poisons:
    clean: {{attack: clean, init: zero}}
    rest: {{attack: {attack}, init: zero}}
  victims: [{victims}]
  defenses: [none]
  downstream: [{downstream}]
  seeds: [0]
  protocol: {protocol}
"""
FITTING = {
    "dataset": "scenes",
    "attack": "clean_remainder_80",
    "victims": "simclr_quick",
    "downstream": "scenes, digits",
    "protocol": "banked",
}


def faults_of(project: Path, **changes: str) -> list[str]:
    """The faults of a study, which is right but for some changes."""
    (project / "specs/studies/mine.yaml").write_text(STUDY.format(**{**FITTING, **changes}))
    _, faults = check()
    return [str(fault).removeprefix("specs/studies/mine.yaml:") for fault in faults]


def test_what_fits_has_no_fault(project: Path) -> None:
    assert faults_of(project) == []  # 200 of 1,000 images stay, more than a batch


def test_a_victims_batch_must_fit_the_images_that_are_released(project: Path) -> None:
    (project / "specs/attacks/rest_95.yaml").write_text("kind: clean_remainder\npoison_fraction: 0.95\n")
    batch = load("victims", "simclr_quick").batch_size
    message = f"rest_95 leaves 50 of 1000 images of scenes, but simclr_quick takes batches of {batch}"
    assert faults_of(project, attack="rest_95") == [f"7:5: study.poisons.rest: {message}"]


def test_a_victims_batch_must_fit_the_data_set(project: Path) -> None:
    victim = re.sub(r"batch_size: \d+", "batch_size: 1001", (project / "specs/victims/simclr_quick.yaml").read_text())
    (project / "specs/victims/greedy.yaml").write_text(victim)
    expected = "8:27: study.victims.1: greedy takes batches of 1001, but scenes has 1000 images"
    assert faults_of(project, victims="simclr_quick, greedy") == [expected]


def test_a_victim_sees_images_of_the_data_sets_size(project: Path) -> None:
    (project / "specs/datasets/scenes_20.yaml").write_text("kind: scenes\nimage_size: 20\ntrain_per_class: 90\n")
    advice = "declare it at that size in a spec of its own, with `image_size: 16`"
    message = f"scenes_20 has images of 20 pixels, but simclr_quick sees 16; {advice}"
    assert faults_of(project, dataset="scenes_20", downstream="digits") == [f"4:3: study.dataset: {message}"]


def test_a_downstream_set_of_another_size_is_named_with_the_spec_that_fits(project: Path) -> None:
    (project / "specs/datasets/digits_24.yaml").write_text("kind: digits\nimage_size: 24\n")
    message = "digits_24 has images of 24 pixels, but simclr_quick sees 16; name digits"
    assert faults_of(project, downstream="scenes, digits_24") == [f"10:24: study.downstream.1: {message}"]


@pytest.mark.parametrize(
    ("dataset", "victim", "downstream", "fitting"),
    [
        ("cifar10", "simclr", "stl10", "stl10_32"),
        ("cifar10", "simclr", "imagenet100", "imagenet100_32"),
        ("cifar10", "simclr", "cifar100_224", "cifar100"),
    ],
)
def test_the_shipped_data_sets_cover_the_papers_transfer(
    project: Path, dataset: str, victim: str, downstream: str, fitting: str
) -> None:
    (found,) = faults_of(project, dataset=dataset, victims=victim, downstream=downstream)
    size = load("datasets", downstream).image_size
    assert found.endswith(f"{downstream} has images of {size} pixels, but {victim} sees 32; name {fitting}")
    assert faults_of(project, dataset=dataset, victims=victim, downstream=fitting) == []


@pytest.mark.parametrize("name", ["cifar10_224", "cifar100_224", "stl10_224", "imagenet100"])
def test_encoders_of_imagenet_have_data_sets_of_their_size(project: Path, name: str) -> None:
    victim = (project / "specs/victims/simclr.yaml").read_text().replace("size: 32", "size: 224")
    (project / "specs/victims/large.yaml").write_text(victim)
    assert faults_of(project, dataset="imagenet100", victims="large", downstream=name) == []


def test_the_poisoned_set_is_probed_alone(project: Path) -> None:
    (project / "specs/protocols/banked.yaml").write_text("train_set: poisoned\n")
    found = [
        fault for fault in faults_of(project) if not fault.startswith("specs/")
    ]  # other studies, too, have more sets
    assert len(found) == 1
    assert found[0].startswith("10:24: study.downstream.1: protocol 'banked' probes on the poisoned training set")


def test_fractions_differ_from_the_whole_in_their_fraction_alone(project: Path) -> None:
    for name in ("cp_sample_paper", "cp_class_paper"):
        for percent in (20, 40, 60, 80):
            part = load("attacks", f"{name}_{percent}")
            assert part == load("attacks", name).model_copy(update={"poison_fraction": percent / 100})
            assert part.poison_fraction == load("attacks", f"clean_remainder_{percent}").poison_fraction


def test_a_study_keeps_to_its_protocol_or_is_told_every_difference(project: Path) -> None:
    held = (
        "attacks: {contrastive_poisoning: {quantization: truncate}}\n"
        "victims: {simclr: {epochs: 40, backbone: {width: 64}}, byol: {epochs: 9}}\n"
    )
    (project / "specs/protocols/theirs.yaml").write_text(held)
    as_theirs = "as protocol 'theirs' has it"
    assert faults_of(project, protocol="theirs", attack="quick_cp_class") == [
        f"7:12: study.poisons.rest.attack: quick_cp_class has quantization: round, not truncate, {as_theirs}",
        f"8:13: study.victims.0: simclr_quick has backbone.width: 16, not 64, {as_theirs}",
    ]


def test_a_study_in_a_folder_is_named_with_it(project: Path) -> None:
    folder = project / "specs/studies/many"
    folder.mkdir()
    text = (project / "specs/studies/quickstart.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace("name: quickstart", "name: many/mine"))
    assert check()[1] == []
    assert load_study("many/mine").name == "many/mine"
    (folder / "mine.yaml").write_text(text.replace("name: quickstart", "name: mine"))
    (fault,) = check()[1]
    assert fault.message.endswith("given 'mine', must be the file's name 'many/mine'")
