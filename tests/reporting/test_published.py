"""The published figures: what the file says, which cells they are of, and every difference of protocol."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.reporting.published import (
    FILE,
    Figure,
    Run,
    differences,
    figure_of,
    is_match,
    load_published,
)
from engine.specfiles import SpecFault, load, names, resolved

KNOWN = {
    ("clean", "simclr"): 91.8,
    ("clean", "moco_v2"): 91.8,
    ("clean", "byol"): 92.2,
    ("clean", "supervised"): 94.6,
    ("ap_targeted", "simclr"): 81.5,
    ("ap_targeted", "moco_v2"): 80.3,
    ("ap_targeted", "byol"): 78.6,
    ("ap_targeted", "supervised"): 6.3,
    ("cp_sample", "simclr"): 44.9,
    ("cp_sample_moco", "moco_v2"): 55.1,
    ("cp_sample_byol", "byol"): 59.6,
    ("cp_class", "simclr"): 68.0,
    ("cp_class_moco", "moco_v2"): 61.9,
    ("cp_class_byol", "byol"): 56.9,
    ("cp_class_byol", "simclr"): 60.0,
    ("cp_class_byol", "moco_v2"): 60.0,
    ("cp_class", "supervised"): 10.0,
    ("cp_class_moco", "supervised"): 10.0,
    ("cp_class_byol", "supervised"): 10.0,
}
"""Accuracies by the names of our specs of the published attacks and victims; without a defense."""
ROUGH = {60.0, 10.0}


def spec(group: str, name: str) -> dict[str, Any]:
    return resolved(load(group, name))


def run_of(attack: str, victim: str, defense: str = "none", **changes: Any) -> Run:
    """The cell as published, of the specs that we declare for it: images and probe are the paper's."""
    made = {**spec("attacks", attack), "init": "class contrastive_poisoning" if "sample" in attack else "uniform"}
    data = {"images": 50_000, "test_images": 10_000, "image_size": 32}
    run = Run(made, spec("victims", victim), spec("defenses", defense), data, spec("protocols", "cp_iclr23"))
    return run._replace(**changes)


def figure(*attacks: str, victim: str, defense: str = "none") -> Figure | None:
    specs = tuple(spec("attacks", attack) for attack in attacks)
    return figure_of(load_published(), specs, run_of(attacks[0], victim, defense))


def written(run: Run, found: Figure) -> list[str]:
    return list(map(str, differences(load_published(), found, found.attacks[0], run)))


def changed(values: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {**values, **changes}


def test_every_known_figure_is_found_and_no_other() -> None:
    attacks = ("clean", "ap_targeted", "ap_untargeted", "random_noise", "ue_class", "ue_sample", "cp_sample_paper_20")
    attacks += tuple(
        f"cp_{granularity}{name}" for granularity in ("sample", "class") for name in ("", "_moco", "_byol")
    )
    found = {
        (attack, victim): there
        for attack, victim in itertools.product(attacks, ("simclr", "moco_v2", "byol", "supervised", "simsiam"))
        if (there := figure(attack, victim=victim))
    }
    assert {cell: there.accuracy for cell, there in found.items()} == KNOWN
    assert {there.accuracy for there in found.values() if there.is_rough} == ROUGH


def test_averages_are_of_both_attacks_and_of_nothing_else() -> None:
    for defense, accuracy in (("matrix_completion", 86.9), ("advcl", 81.0)):
        average = figure("cp_sample", "cp_class", victim="simclr", defense=defense)
        assert average is not None
        assert average.accuracy == accuracy
        assert "Table 8" in average.source
        assert figure("cp_sample", victim="simclr", defense=defense) is None
        assert figure("cp_class", "cp_sample", victim="simclr", defense=defense) is None
    assert len(load_published().figures) == len(KNOWN) + 2


def test_no_two_figures_are_of_one_cell() -> None:
    published, cells = load_published(), 0
    attacks = [spec("attacks", name) for name in names("attacks")]
    for attack, victim in itertools.product(attacks, [spec("victims", name) for name in names("victims")]):
        matching = [
            each
            for each in published.figures
            if len(each.attacks) == 1
            and is_match(published.attacks[each.attacks[0]].matches, attack)
            and is_match(published.victims[each.victim].matches, victim)
        ]
        assert len(matching) <= 1
        cells += len(matching)
    assert cells > 100


@pytest.mark.parametrize("attack", ["cp_sample", "cp_class", "cp_sample_moco", "cp_class_byol", "cp_sample_byol"])
def test_our_specs_of_the_official_code_differ_in_rounding_alone(attack: str) -> None:
    victim = {"moco": "moco_v2", "byol": "byol"}.get(attack.rpartition("_")[2], "simclr")
    found = figure(attack, victim=victim)
    assert found is not None
    run = run_of(attack, victim)
    assert written(run, found) == ["attack quantization round (truncate)"]
    exact = run._replace(attack=changed(run.attack, quantization="truncate"))
    assert written(exact, found) == []


def test_our_specs_of_ap_and_of_supervised_learning_are_the_published_ones() -> None:
    found = figure("ap_targeted", victim="supervised")
    assert found is not None
    run = run_of("ap_targeted", "supervised", probe={"train_set": "poisoned", "linear": {}})
    assert written(run, found) == []  # its own classifier is judged: the probe does not count


def test_every_difference_of_a_small_study_is_said() -> None:
    run = run_of("cp_sample", "simclr")
    own = run._replace(
        attack=changed(run.attack, epsilon=16 / 255, quantization="truncate", init="uniform", rounds=24),
        victim=changed(run.victim, epochs=120, batch_size=128, backbone=spec("victims", "protect_simclr")["backbone"]),
        data={"images": 2_000, "test_images": 10_000, "image_size": 32},
        probe=changed(run.probe, train_set="poisoned", linear=changed(run.probe["linear"], select="last")),
    )
    found = figure("cp_sample", victim="simclr")
    assert found is not None
    assert written(own, found) == [
        "images 2,000 (50,000)",
        "attack epsilon 16/255 (8/255)",
        "attack init uniform (class contrastive_poisoning)",
        "attack rounds 24 (200)",
        "victim epochs 120 (1,000)",
        "victim batch size 128 (512)",
        "victim backbone width 16 (64)",
        "victim backbone stages [1, 1, 1, 1] ([2, 2, 2, 2])",
        "victim backbone stem cifar_stride2 (cifar)",
        "probe train set poisoned (clean)",
        "probe linear select last (best)",
    ]


def test_of_another_backbone_the_kind_alone_is_said() -> None:
    found = figure("clean", victim="simclr_vgg19")
    assert found is not None
    assert written(run_of("clean", "simclr_vgg19"), found) == ["victim backbone vgg19 (resnet18)"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("victim: moco_v2}", "victim: moco}", "figures: 'moco' is not declared under victims"),
        (
            "  - {<<: *bars, victim: byol, accuracy: 92.2}",
            "  - *bars",
            "figures: clean on simclr under none is given twice",
        ),
        ("accuracy: 92.2", "accuracy: 922", "less than or equal to 100"),
        ("is_rough: true", "rough: true", "is not a known key"),
        ("  clean:\n    matches: {kind: clean}", "  clean:\n    matches: {}", "at least 1"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = FILE.read_text()
    assert old in text
    file = tmp_path / "published.yaml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(SpecFault, match=r"published\.yaml:\d+") as caught:
        load_published(file)
    assert complaint in str(caught.value)
