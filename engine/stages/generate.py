"""Generate: craft one poisoned copy of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine import plugins
from engine.artifacts import read_poison, write_poison
from engine.progress import progress_of
from engine.protocols import AttackContext, ImageSet, Poison
from engine.randomness import stream
from engine.spec import AttackSpec
from engine.specfiles import load, resolved
from engine.stages.inputs import load_dataset, load_executor, numerics, source_of
from engine.study import STARTS, poison_path

if TYPE_CHECKING:
    from torch import Tensor


def generate(dataset: str, name: str, attack: str, init: str, layout: str) -> Path:
    """Make the poison ``name`` with an attack that starts from ``init``, and return its folder."""
    from engine.images import checksum
    from engine.perturbation import poison_u8, quantize_levels, stratified_mask

    spec: AttackSpec = load("attacks", attack)
    executor = load_executor(layout)
    dataset_spec, split = load_dataset(dataset)
    clean = split.train
    perturbed = stratified_mask(
        clean.labels, fraction=spec.poison_fraction, generator=stream(spec.seed, "attack", "perturbed")
    )
    with executor.run(), progress_of(f"generate {name}") as progress:
        start = init if init in STARTS else read_poison(poison_path(dataset, init)).poison
        context = AttackContext(
            source_of(dataset_spec, split), start, perturbed.to(executor.device), executor, progress
        )
        poison: Poison = plugins.build("attacks", spec)(clean.to(executor.device), context)
    delta = _masked(poison, perturbed)
    spread = _spread(poison, delta, clean, perturbed)
    truncate = spec.quantization == "truncate"
    released = poison_u8(clean.images_u8, spread, epsilon=spec.epsilon, truncate=truncate)
    about = {
        "name": name,
        "dataset": {"name": dataset, "spec": resolved(dataset_spec), "checksum": checksum(split)},
        "attack": {"name": attack, "spec": resolved(spec), "init": init},
        "epsilon": spec.epsilon,
        "granularity": poison.granularity,
        "image_views": poison.image_views,
        "numerics": numerics("generate"),
    }
    target = poison_path(dataset, name)
    write_poison(
        target,
        clean=clean,
        released=ImageSet(released, clean.labels, clean.class_names),
        levels=quantize_levels(delta, epsilon=spec.epsilon),
        perturbed=perturbed,
        about=about,
    )
    return target


def _masked(poison: Poison, perturbed: Tensor) -> Tensor:
    """Return the noise with that of untouched images set to zero; class-wise noise is left as it is."""
    if poison.granularity == "class":
        return poison.delta
    return poison.delta * perturbed[:, None, None, None]


def _spread(poison: Poison, delta: Tensor, clean: ImageSet, perturbed: Tensor) -> Tensor:
    """Return the noise of every image: [N, C, H, W]."""
    if poison.granularity == "sample":
        return delta
    return delta[clean.labels] * perturbed[:, None, None, None]
