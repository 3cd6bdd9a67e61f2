"""Generate: craft one poisoned copy of a data set."""

from __future__ import annotations

from dataclasses import replace
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
    from engine.perturbation import stratified_mask

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
    truncate = spec.quantization == "truncate"
    if poison.withheld is not None:
        withheld = poison.withheld.cpu()
        poison, perturbed = replace(poison, withheld=withheld), perturbed & ~withheld
    released, levels = _release(poison, clean, perturbed, epsilon=spec.epsilon, truncate=truncate)
    about = {
        "name": name,
        "dataset": {"name": dataset, "spec": resolved(dataset_spec), "checksum": checksum(split)},
        "attack": {"name": attack, "spec": resolved(spec), "init": init},
        "epsilon": spec.epsilon,
        "precision": executor.precision.name,
        "numerics": numerics("generate"),
    }
    target = poison_path(dataset, name)
    write_poison(
        target,
        clean=clean,
        released=ImageSet(released, clean.labels, clean.class_names),
        poison=replace(poison, noise=levels, unit=1 / 255),
        perturbed=perturbed,
        about=about,
    )
    return target


def _release(
    poison: Poison, clean: ImageSet, perturbed: Tensor, *, epsilon: float, truncate: bool
) -> tuple[Tensor, Tensor]:
    """Return the eight-bit images that are released and the noise in grey levels, zero for untouched images.

    Class-wise noise is returned per class, as it is.
    """
    import torch

    from engine.perturbation import chunks, poison_u8, quantize_levels

    released = torch.empty_like(clean.images_u8)
    levels = torch.empty(poison.noise.shape, dtype=torch.int8)
    is_class_wise = poison.granularity == "class"
    if is_class_wise:
        levels = quantize_levels(poison.delta(), epsilon=epsilon)
    for rows in chunks(len(clean)):
        delta = poison.delta(clean.labels[rows] if is_class_wise else rows) * perturbed[rows, None, None, None]
        released[rows] = poison_u8(clean.images_u8[rows], delta, epsilon=epsilon, truncate=truncate)
        if not is_class_wise:
            levels[rows] = quantize_levels(delta, epsilon=epsilon)
    return released, levels
