"""The scratch project: data sets of an owner's images that studies can read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.images import DatasetFault
from engine.protecting.intake import take_in
from engine.protecting.ledger import once
from engine.protecting.recipes import Changes, load_recipe
from engine.protecting.scratch import CRAFTED, JUDGED, UNLABELLED, lay_out, lay_out_unlabelled, write_recipe
from engine.specfiles import load
from engine.stages.inputs import load_dataset
from tests.protecting.folders import picture


def owned(folder: Path, per_class: int = 10) -> Path:
    for label, name in enumerate(("a", "b", "c")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            picture(100 * label + number, 20 + number, 24).save(folder / name / f"{number}.png")
    return folder


def test_both_data_sets_hold_the_owners_images_and_their_places_are_known(project: Path) -> None:
    taken = take_in(owned(project / "owned"), 16)
    layout = lay_out(project, taken, taken.labels, taken.class_names, None, 3)
    assert (layout.crafted, layout.judged) == (CRAFTED, JUDGED)
    _, whole = load_dataset(CRAFTED)
    spec, halves = load_dataset(JUDGED)
    assert torch.equal(whole.train.images_u8, taken.working_u8[list(layout.crafted_rows)])
    assert torch.equal(halves.train.images_u8, taken.working_u8[list(layout.judged_rows)])
    assert torch.equal(halves.train.labels, taken.labels[list(layout.judged_rows)])
    assert (len(whole.train), len(halves.train), len(halves.test)) == (30, 24, 6)
    assert halves.test.labels.bincount().tolist() == [2, 2, 2]
    mean = (taken.working_u8.double() / 255).mean((0, 2, 3))
    assert torch.allclose(torch.tensor(spec.mean, dtype=torch.float64), mean, atol=1e-4)


def test_the_halves_are_those_of_a_study_on_the_originals(project: Path) -> None:
    folder = project / "owned"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            picture(number, 32, 32).save(folder / name / f"{number}.png")
    taken = take_in(folder, 32)
    lay_out(project, taken, taken.labels, taken.class_names, None, 5)
    spec = project / "specs/datasets/study.yaml"
    spec.write_text(f"kind: imagefolder\npath: {folder}\nimage_size: 32\ntest_fraction: 0.2\nsubset_seed: 5\n")
    ours, studys = load_dataset(JUDGED)[1], load_dataset("study")[1]
    for half in ("train", "test"):
        assert torch.equal(getattr(ours, half).images_u8, getattr(studys, half).images_u8)
        assert torch.equal(getattr(ours, half).labels, getattr(studys, half).labels)


def test_images_that_are_kept_judge_in_place_of_held_out_ones(project: Path) -> None:
    taken, kept = take_in(owned(project / "owned"), 16), take_in(owned(project / "kept", 4), 16)
    layout = lay_out(project, taken, taken.labels, taken.class_names, kept, 0)
    assert layout.crafted == layout.judged == JUDGED
    assert layout.crafted_rows == layout.judged_rows == tuple(range(30))
    _, split = load_dataset(JUDGED)
    assert torch.equal(split.train.images_u8, taken.working_u8)
    assert torch.equal(split.test.images_u8, kept.working_u8)


def test_clusters_reorder_rows_and_nothing_is_mixed_up(project: Path) -> None:
    taken = take_in(owned(project / "owned"), 16)
    labels = torch.arange(30) % 2
    layout = lay_out(project, taken, labels, ("cluster_0", "cluster_1"), None, 0)
    _, whole = load_dataset(CRAFTED)
    assert layout.crafted_rows[:3] == (0, 2, 4)
    assert torch.equal(whole.train.images_u8, taken.working_u8[list(layout.crafted_rows)])
    assert torch.equal(whole.train.labels, labels[list(layout.crafted_rows)])


def test_another_seed_holds_out_others_in_a_folder_of_its_own(project: Path) -> None:
    taken = take_in(owned(project / "owned"), 16)
    first = lay_out(project, taken, taken.labels, taken.class_names, None, 0)
    path = load("datasets", JUDGED).path
    second = lay_out(project, taken, taken.labels, taken.class_names, None, 1)
    assert first.judged_rows != second.judged_rows
    assert load("datasets", JUDGED).path != path
    assert lay_out(project, taken, taken.labels, taken.class_names, None, 0) == first


def test_a_class_of_one_image_cannot_be_halved(project: Path) -> None:
    folder = owned(project / "owned")
    for file in list((folder / "b").iterdir())[1:]:
        file.unlink()
    taken = take_in(folder, 16)
    with pytest.raises(DatasetFault, match="class 'b' has 1 image"):
        lay_out(project, taken, taken.labels, taken.class_names, None, 0)


def test_unlabelled_images_are_one_class(project: Path) -> None:
    lay_out_unlabelled(project, take_in(owned(project / "owned"), 16), 0)
    _, split = load_dataset(UNLABELLED)
    assert (len(split.train), len(split.test), split.train.class_names) == (24, 6, ("image",))


def test_a_recipes_specs_are_written_and_read_back_with_the_changes(project: Path) -> None:
    recipe = load_recipe("protect", Changes("16/255", 40, 2))
    before = load("attacks", recipe.attack)
    write_recipe(project, recipe, images=200)
    attack, victim = load("attacks", recipe.attack), load("victims", "protect_supervised")
    assert (attack.epsilon, attack.seed, attack.noise_steps) == (16 / 255, 2, 3)
    assert (attack.surrogate.views.size, victim.views.size, victim.views.padding) == (40, 40, 4)
    assert (attack.rounds, attack.surrogate.lr) == (before.rounds, before.surrogate.lr)


def test_a_finished_step_is_done_again_only_for_other_inputs_or_lost_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done, out = [], tmp_path / "out"

    def step(number: int) -> None:
        done.append(number)
        out.write_text(str(number))

    for number in (1, 1, 2, 2):
        once("step", {"number": number}, [out], lambda number=number: step(number))
    assert done == [1, 2]
    out.unlink()
    once("step", {"number": 2}, [out], lambda: step(2))
    assert done == [1, 2, 2]
    with pytest.raises(ZeroDivisionError):
        once("step", {"number": 3}, [out], lambda: 1 / 0)
    once("step", {"number": 3}, [out], lambda: step(3))
    assert done == [1, 2, 2, 3]
