"""Releases: the protected folder, and what a thief gets of it as poisons of the data set that judges.

A release's noise is what differs at the working size, after everything that happened to the file at full size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts import read_poison, write_poison
from engine.artifacts.files import sha256
from engine.images import checksum
from engine.perturbation import max_level, stratified_mask
from engine.protecting.intake import Intake
from engine.protecting.ledger import once
from engine.protecting.scratch import Layout
from engine.protecting.variants import HALF, RELEASED, VARIANTS
from engine.protecting.writing import IMAGES, RECORD, VERDICT, Written, put_json, write_protected
from engine.protocols import ImageSet, Poison
from engine.randomness import stream
from engine.specfiles import load, resolved
from engine.stages.inputs import load_dataset
from engine.study import poison_path

if TYPE_CHECKING:
    from torch import Tensor

CRAFTED = "crafted"
"""The poison that the attack makes at the working size; the releases are made of it."""
RELEASES = (*VARIANTS, HALF)


def release(intake: Intake, layout: Layout, output: Path, *, seed: int, judged: bool) -> None:
    """Write the protected folder and its record, and every release as a poison where it is to be judged."""
    crafted = poison_path(layout.crafted, CRAFTED)
    poisons = [poison_path(layout.judged, name) for name in RELEASES] if judged else []
    about = {
        "images": intake.digest,
        "crafted": sha256(crafted / "manifest.json"),
        "judged": resolved(load("datasets", layout.judged)),
        "output": str(output),
        "seed": seed,
    }
    key = f"release-{layout.judged}" if judged else "release"
    once(
        key, about, (output / IMAGES, output / RECORD, *poisons), lambda: _release(intake, layout, output, seed, judged)
    )


def _release(intake: Intake, layout: Layout, output: Path, seed: int, judged: bool) -> None:
    import torch

    poison = read_poison(poison_path(layout.crafted, CRAFTED))
    places = {row: place for place, row in enumerate(layout.crafted_rows)}
    is_class_wise, labels = poison.manifest["granularity"] == "class", poison.images.labels

    def levels_of(row: int) -> Tensor:
        place = places[row]
        return poison.poison.noise[labels[place] if is_class_wise else place]

    output.mkdir(parents=True, exist_ok=True)
    # From here on the folder is known as this command's own, and what it said before is no longer true.
    put_json(output / RECORD, {"folder": str(intake.folder), "finished": False})
    for name in VERDICT:
        (output / name).unlink(missing_ok=True)
    bound = max_level(poison.manifest["epsilon"])
    written, variants = write_protected(intake, levels_of, bound=bound, output=output)
    if judged:
        rows = torch.tensor(layout.judged_rows)
        _write_poisons(layout, {name: seen[rows] for name, seen in variants.items()}, poison.manifest, seed)
    _write_record(intake, written, poison.manifest, output)


def _write_poisons(layout: Layout, variants: dict[str, Tensor], manifest: dict[str, Any], seed: int) -> None:
    import torch

    spec, split = load_dataset(layout.judged)
    clean = split.train
    everywhere = torch.ones(len(clean), dtype=torch.bool)
    chosen = stratified_mask(clean.labels, fraction=0.5, generator=stream(seed, "protect", HALF))
    half = torch.where(chosen[:, None, None, None], variants[RELEASED], clean.images_u8)
    masks = {**dict.fromkeys(variants, everywhere), HALF: chosen}
    described = {"name": layout.judged, "spec": resolved(spec), "checksum": checksum(split)}
    for name, seen_u8 in {**variants, HALF: half}.items():
        # JPEG may move a pixel by more than eight signed bits hold; only reports look at the noise.
        levels = (seen_u8.int() - clean.images_u8.int()).clamp(-127, 127).to(torch.int8)
        write_poison(
            poison_path(layout.judged, name),
            clean=clean,
            released=ImageSet(seen_u8, clean.labels, clean.class_names),
            poison=Poison(levels, "sample", unit=1 / 255),
            perturbed=masks[name],
            about={
                "name": name,
                "dataset": described,
                **{key: manifest[key] for key in ("attack", "epsilon", "precision", "numerics")},
            },
        )


def _write_record(intake: Intake, written: list[Written], manifest: dict[str, Any], output: Path) -> None:
    content = {
        "folder": str(intake.folder),
        "finished": True,
        "epsilon": manifest["epsilon"],
        "max_level": max_level(manifest["epsilon"]),
        "attack": manifest["attack"],
        "working_size": intake.working_u8.shape[-1],
        "images": [each.record() for each in written],
        "broken": [{"name": each.name, "reason": each.reason} for each in intake.broken],
        "not_images": list(intake.ignored),
    }
    put_json(output / RECORD, content)
