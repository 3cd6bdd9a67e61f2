"""Pretrain: train one victim on one poisoned data set, under one defense."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine import plugins
from engine.artifacts import encoded_images, read_images, read_manifest
from engine.artifacts.encoder import write_encoder
from engine.artifacts.files import sha256, write_csv
from engine.errors import EngineError
from engine.progress import progress_of
from engine.protocols import Defense, Executor, Feed, Source, Victim
from engine.randomness import stream
from engine.spec import DefenseSpec
from engine.specfiles import load, resolved
from engine.stages.inputs import load_executor, numerics
from engine.study import Cell, poison_path
from engine.victimspec import VictimSpec


def pretrain(cell: Cell, layout: str) -> Path:
    """Train the cell's victim on the released images and return the encoder's file."""
    from engine.training.pretrain import Recipe
    from engine.training.pretrain import pretrain as train

    spec: VictimSpec = load("victims", cell.victim)
    defense_spec: DefenseSpec = load("defenses", cell.defense)
    defense: Defense = plugins.build("defenses", defense_spec)
    executor = load_executor(layout)
    manifest = read_manifest(poison_path(cell.dataset, cell.poison))
    source = source_in(manifest)
    about = {
        "victim": {"name": cell.victim, "spec": resolved(spec)},
        "defense": {"name": cell.defense, "spec": resolved(defense_spec)},
        **_about(cell, source, executor),
    }
    recipe = Recipe(**spec.recipe())
    with executor.run(), progress_of(f"pretrain {cell.key}") as progress:
        victim = fresh_victim(spec, source, cell.seed)
        executor.place(victim.network)
        with _training_set(cell, manifest, defense, executor, layout) as feed:
            curve = train(
                victim,
                feed,
                recipe=recipe,
                defense=defense,
                precision=executor.precision,
                seed=cell.seed,
                progress=progress,
            )
    classifier = victim.classifier.state_dict() if victim.classifier is not None else None
    write_encoder(cell.encoder, victim.encoder.state_dict(), about, classifier)
    write_csv(cell.curve, curve)
    return cell.encoder


@contextmanager
def _training_set(
    cell: Cell, manifest: dict[str, Any], defense: Defense, executor: Executor, layout: str
) -> Iterator[Feed]:
    """Yield the released images: from the device's memory where they fit, else decoded batch by batch.

    Which of them is decided before anything is decoded, and changes no result.

    Raises:
        EngineError: the images do not fit, and the defense must see all of them.
    """
    from engine.batching import Resident
    from engine.streaming import streamed

    folder = poison_path(cell.dataset, cell.poison)
    num_bytes = manifest["images"] * math.prod(manifest["image_shape"])
    if executor.fits(num_bytes):
        images = defense.on_dataset(read_images(folder, manifest), stream(cell.seed, "defense", "dataset"))
        yield Resident(images.to(executor.device))
    elif defense.changes_dataset:
        raise EngineError(
            f"defense {cell.defense!r} changes the whole data set, but its {num_bytes / 1e9:.3g} GB are more than may "
            f"stay on the device; raise resident_gb in specs/layouts/{layout}.yaml, or name a larger device there"
        )
    else:
        with streamed(encoded_images(folder), device=executor.device, workers=executor.workers) as feed:
            yield feed


def _about(cell: Cell, source: Source, executor: Executor) -> dict[str, Any]:
    """Return what an encoder's file says of its making, beside the specs."""
    manifest = poison_path(cell.dataset, cell.poison) / "manifest.json"
    return {
        "seed": cell.seed,
        "source": {"mean": list(source.mean), "std": list(source.std), "num_classes": source.num_classes},
        "poison": {"name": cell.poison, "manifest": sha256(manifest)},
        "precision": executor.precision.name,
        "numerics": numerics("pretrain"),
    }


def fresh_victim(spec: VictimSpec, source: Source, seed: int) -> Victim:
    """Build a learner with the initial weights of a seed."""
    victim: Victim = plugins.build("victims", spec, source=source, generator=stream(seed, "victim", "init"))
    return victim


def source_in(manifest: dict[str, Any]) -> Source:
    """Return what a poison's manifest says of its images."""
    declared = manifest["dataset"]["spec"]
    return Source(tuple(declared["mean"]), tuple(declared["std"]), len(manifest["class_names"]))
