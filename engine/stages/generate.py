"""Generate: craft one poisoned copy of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import plugins
from engine.artifacts import read_poison, write_poison
from engine.artifacts.files import sha256, write_json
from engine.images import checksum
from engine.machine import Machine
from engine.metering import Meter
from engine.processes import is_first
from engine.progress import progress_of
from engine.protocols import AttackContext, ImageSet, Job, Poison
from engine.randomness import stream
from engine.spec import AttackSpec
from engine.specfiles import load, resolved
from engine.stages.inputs import command_of, journal_of, load_dataset, numerics, source_of
from engine.stages.perturbations import measure_perturbation
from engine.study import STARTS, cost_path, perturbation_path, poison_path

if TYPE_CHECKING:
    from torch import Tensor


def generate_job(dataset: str, name: str, attack: str, init: str, precision: str) -> Job:
    """Return the job that makes the poison ``name`` with an attack that starts from ``init``."""
    about = {
        "name": name,
        "dataset": {"name": dataset, "spec": resolved(load("datasets", dataset))},
        "attack": {"name": attack, "spec": resolved(load("attacks", attack)), "init": init},
        "init": init if init in STARTS else sha256(poison_path(dataset, init) / "manifest.json"),
        "precision": precision,
        "numerics": numerics("generate"),
    }
    options = {"dataset": dataset, "name": name, "attack": attack, "init": init, "precision": precision}
    return Job(
        "generate",
        name,
        dataset,
        command_of("generate", options),
        (
            poison_path(dataset, name),
            perturbation_path(dataset, name),
            cost_path(dataset, f"generate@{name}"),
        ),
        precision,
        about,
        lambda machine: generate(dataset, name, attack, init, about, machine),
        is_shared=True,
    )


def generate(dataset: str, name: str, attack: str, init: str, about: dict[str, Any], machine: Machine) -> None:
    """Make the poison ``name`` with an attack that starts from ``init``; ``about`` is what a checkpoint depends on."""
    from engine.perturbation import stratified_mask

    meter = Meter(machine)
    spec: AttackSpec = load("attacks", attack)
    dataset_spec, split = load_dataset(dataset)
    clean, target = split.train, poison_path(dataset, name)
    perturbed = stratified_mask(
        clean.labels, fraction=spec.poison_fraction, generator=stream(spec.seed, "attack", "perturbed")
    )
    journal = journal_of("generate", dataset, name, about, machine)
    with machine.run(), progress_of(f"generate {name}") as progress, journal.open():
        journal.keep("meter", meter)
        start = init if init in STARTS else read_poison(poison_path(dataset, init)).poison
        source = source_of(dataset_spec, split)
        context = AttackContext(source, start, perturbed.to(machine.device), machine, progress, journal)
        poison: Poison = plugins.build("attacks", spec)(clean.to(machine.device), context)
        if is_first():
            made_of = {
                "name": name,
                "dataset": {"name": dataset, "spec": resolved(dataset_spec), "checksum": checksum(split)},
                "attack": {"name": attack, "spec": resolved(spec), "init": init},
                "epsilon": spec.epsilon,
                "precision": machine.precision.name,
                "numerics": numerics("generate"),
            }
            written = _write(target, poison, clean, perturbed, made_of, truncate=spec.quantization == "truncate")
            write_json(cost_path(dataset, f"generate@{name}"), meter.record())
            write_json(perturbation_path(dataset, name), measure_perturbation(clean, *written))


def _write(
    target: Path, poison: Poison, clean: ImageSet, perturbed: Tensor, about: dict[str, Any], *, truncate: bool
) -> tuple[Tensor, Poison, Tensor]:
    """Write the artifact; return the released images, the noise in grey levels, and which images it perturbs."""
    if poison.withheld is not None:
        withheld = poison.withheld.cpu()
        poison, perturbed = replace(poison, withheld=withheld), perturbed & ~withheld
    released, levels = _release(poison, clean, perturbed, epsilon=about["epsilon"], truncate=truncate)
    poison = replace(poison, noise=levels, unit=1 / 255)
    write_poison(
        target,
        clean=clean,
        released=replace(clean, images_u8=released),
        poison=poison,
        perturbed=perturbed,
        about=about,
    )
    return released, poison, perturbed


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
