"""The scratch project: an owner's images as data sets of their own, beside a copy of the project's specs.

Two data sets are made of the same files: ``owner_all``, whose training half is every image, for the noise, and
``owner``, whose training half a thief trains on and whose test half judges. Where other images judge they are one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from engine.datasets.imagefolder import find_halves
from engine.params import FILE as PARAMS
from engine.protecting.intake import Intake
from engine.protecting.recipes import Recipe, paced
from engine.specfiles import ROOT as SPECS

if TYPE_CHECKING:
    from torch import Tensor

CRAFTED, JUDGED, UNLABELLED = "owner_all", "owner", "owner_unlabelled"
HELD_OUT = 0.2
"""The part of every class that judges, where no other images do."""


@dataclass(frozen=True)
class Layout:
    """Where an owner's images lie as data sets, and which of them each one's training half is made of.

    ``crafted_rows`` and ``judged_rows`` are places among the owner's images, in the order of the data sets' rows.
    """

    crafted: str
    judged: str
    crafted_rows: tuple[int, ...]
    judged_rows: tuple[int, ...]


def copy_specs(root: Path) -> None:
    """Copy the specs and parameters of the project in the working folder, in place of those of an earlier run."""
    shutil.rmtree(root / SPECS, ignore_errors=True)
    shutil.copytree(SPECS, root / SPECS)
    shutil.copyfile(PARAMS, root / PARAMS)


def write_recipe(root: Path, recipe: Recipe, *, images: int) -> None:
    """Write the attack and the learners of a recipe with the user's changes."""
    _write_spec(root, "attacks", recipe.attack, paced(recipe.attack_content, images))
    for victim, content in recipe.victim_contents.items():
        _write_spec(root, "victims", victim, content)


def _write_spec(root: Path, group: str, name: str, content: dict[str, Any]) -> None:
    text = f"# Written by `engine protect`.\n{json.dumps(content, indent=2)}\n"  # JSON is YAML
    (root / SPECS / group / f"{name}.yaml").write_text(text)


def lay_out(
    root: Path, intake: Intake, labels: Tensor, class_names: tuple[str, ...], judges: Intake | None, seed: int
) -> Layout:
    """Write the working images as data sets, and the specs of these.

    Raises:
        DatasetFault: a class has one image, and none can be held out.
    """
    folder = root / "images" / _digest(intake, labels, class_names, judges, seed)[:16]
    by_class = [(class_names[label], row) for row, label in enumerate(labels.tolist())]
    write_images(folder / "train", intake.working_u8, by_class)
    if judges is not None and judges.labels is not None:
        named = [(judges.class_names[label], row) for row, label in enumerate(judges.labels.tolist())]
        write_images(folder / "test", judges.working_u8, named)
        whole, _ = find_halves(folder, None, seed)
        write_dataset(root, JUDGED, intake, {"path": str(folder.absolute())})
        rows = _rows(whole.files)
        return Layout(JUDGED, JUDGED, rows, rows)
    train, test = find_halves(folder / "train", HELD_OUT, seed)
    held_out = [(class_names[label], int(file.stem)) for file, label in zip(test.files, test.labels, strict=True)]
    write_images(folder / "test", intake.working_u8, held_out)
    whole, _ = find_halves(folder, None, seed)
    write_dataset(root, CRAFTED, intake, {"path": str(folder.absolute())})
    halves = {"path": str((folder / "train").absolute()), "test_fraction": HELD_OUT, "subset_seed": seed}
    write_dataset(root, JUDGED, intake, halves)
    return Layout(CRAFTED, JUDGED, _rows(whole.files), _rows(train.files))


def lay_out_unlabelled(root: Path, intake: Intake, seed: int) -> None:
    """Write the working images as a data set of one class, to learn features from."""
    folder = root / "images" / f"{intake.digest[:16]}-unlabelled"
    write_images(folder, intake.working_u8, [("image", row) for row in range(len(intake.originals))])
    halves = {"path": str(folder.absolute()), "test_fraction": HELD_OUT, "subset_seed": seed}
    write_dataset(root, UNLABELLED, intake, halves)


def write_images(folder: Path, images_u8: Tensor, named: list[tuple[str, int]]) -> None:
    """Write some rows of images, each under its class and its row; a folder that is there is left as it is."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for class_name, row in named:
        file = partial / class_name / f"{row:08d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images_u8[row].permute(1, 2, 0).numpy()).save(file)
    partial.rename(folder)


def write_dataset(root: Path, name: str, intake: Intake, where: dict[str, Any]) -> None:
    """Write the spec of a data set of working images, with their own statistics."""
    pixels = intake.working_u8.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=0.01)
    content = {
        "kind": "imagefolder",
        **where,
        "image_size": intake.working_u8.shape[-1],
        "mean": [round(value, 4) for value in mean.tolist()],
        "std": [round(value, 4) for value in std.tolist()],
    }
    _write_spec(root, "datasets", name, content)


def _digest(intake: Intake, labels: Tensor, class_names: tuple[str, ...], judges: Intake | None, seed: int) -> str:
    told = [intake.digest, *class_names, *map(str, labels.tolist()), judges.digest if judges else "", str(seed)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _rows(files: tuple[Path, ...]) -> tuple[int, ...]:
    return tuple(int(file.stem) for file in files)
