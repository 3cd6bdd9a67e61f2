"""Pretrain: train one victim on one poisoned data set, under one defense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import plugins
from engine.artifacts import read_poison
from engine.artifacts.encoder import write_encoder
from engine.artifacts.files import sha256, write_csv
from engine.progress import progress_of
from engine.protocols import Defense, Source, Victim
from engine.randomness import stream
from engine.specfiles import load, resolved
from engine.stages.inputs import load_executor, numerics
from engine.study import Cell, poison_path
from engine.victimspec import VictimSpec


def pretrain(cell: Cell, layout: str) -> Path:
    """Train the cell's victim on the released images and return the encoder's file."""
    from engine.training.pretrain import Recipe
    from engine.training.pretrain import pretrain as train

    spec: VictimSpec = load("victims", cell.victim)
    defense_spec = load("defenses", cell.defense)
    executor = load_executor(layout)
    folder = poison_path(cell.dataset, cell.poison)
    released = read_poison(folder)
    source = source_in(released.manifest)
    recipe = Recipe(**spec.model_dump(include=set(Recipe.__dataclass_fields__)))
    with executor.run(), progress_of(f"pretrain {cell.key}") as progress:
        victim = fresh_victim(spec, source, cell.seed)
        executor.place(victim.network)
        defense: Defense = plugins.build("defenses", defense_spec)
        images = defense.on_dataset(released.images, stream(cell.seed, "defense", "dataset"))
        curve = train(
            victim,
            images.to(executor.device),
            recipe=recipe,
            defense=defense,
            seed=cell.seed,
            progress=progress,
        )
    about = {
        "victim": {"name": cell.victim, "spec": resolved(spec)},
        "defense": {"name": cell.defense, "spec": resolved(defense_spec)},
        "seed": cell.seed,
        "source": {"mean": list(source.mean), "std": list(source.std), "num_classes": source.num_classes},
        "poison": {"name": cell.poison, "manifest": sha256(folder / "manifest.json")},
        "numerics": numerics("pretrain"),
    }
    write_encoder(cell.encoder, victim.encoder.state_dict(), about)
    write_csv(cell.curve, curve)
    return cell.encoder


def fresh_victim(spec: VictimSpec, source: Source, seed: int) -> Victim:
    """Build a learner with the initial weights of a seed."""
    victim: Victim = plugins.build("victims", spec, source=source, generator=stream(seed, "victim", "init"))
    return victim


def source_in(manifest: dict[str, Any]) -> Source:
    """Return what a poison's manifest says of its images."""
    declared = manifest["dataset"]["spec"]
    return Source(tuple(declared["mean"]), tuple(declared["std"]), len(manifest["class_names"]))
