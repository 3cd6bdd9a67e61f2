"""What is wrong between specs that are right by themselves: the poisons, victims, data sets and probe of a study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.params import FILE as PARAMS
from engine.params import Params
from engine.specfiles import Document, Fault
from engine.study import StudySpec

Specs = dict[tuple[str, str], Any]
"""Every component by group and name; None where its own file is wrong."""


def grid_faults(study: StudySpec, document: Document, specs: Specs, params: Params | None) -> list[Fault]:
    """Return what is wrong with a study whose names are all known."""
    return [
        *_start_faults(study, document, specs),
        *_probe_faults(study, document, specs, params),
        *_batch_faults(study, document, specs),
        *_size_faults(study, document, specs),
        *_defense_faults(study, document, specs),
    ]


def _start_faults(study: StudySpec, document: Document, specs: Specs) -> Iterator[Fault]:
    for name, entry in study.poisons.items():
        attack, origin = specs["attacks", entry.attack], study.poisons.get(entry.init)
        before = specs["attacks", origin.attack] if origin else None
        if attack and before and (attack.granularity, before.granularity) == ("class", "sample"):
            message = f"{entry.attack} is class-wise and cannot start from {entry.init!r}, which is sample-wise"
            yield document.fault(("study", "poisons", name, "init"), message)


def _probe_faults(study: StudySpec, document: Document, specs: Specs, params: Params | None) -> Iterator[Fault]:
    probe = specs.get(("probes", params.probe)) if params else None
    if params and probe and probe.train_set == "poisoned":
        for index, name in enumerate(study.downstream):
            if name != study.dataset:
                message = f"{PARAMS} names probe {params.probe!r}, which trains on the poisoned set; {name!r} has none"
                yield document.fault(("study", "downstream", index), message)


def _batch_faults(study: StudySpec, document: Document, specs: Specs) -> Iterator[Fault]:
    """Find victims whose batches are larger than a training set, where the data set's spec fixes its size."""
    dataset = specs["datasets", study.dataset]
    if dataset is None or not dataset.num_classes or not (whole := dataset.counts[0]):
        return
    for index, name in enumerate(study.victims):
        if not (victim := specs["victims", name]):
            continue
        takes = f"{name} takes batches of {victim.batch_size}"
        if whole < victim.batch_size:
            yield document.fault(("study", "victims", index), f"{takes}, but {study.dataset} has {whole} images")
            continue
        for poison, entry in study.poisons.items():
            attack = specs["attacks", entry.attack]
            per_class = whole // dataset.num_classes
            withheld = round(attack.withheld_fraction * per_class) if attack else 0
            if (left := whole - dataset.num_classes * withheld) < victim.batch_size:
                message = f"{entry.attack} leaves {left} of {whole} images of {study.dataset}, but {takes}"
                yield document.fault(("study", "poisons", poison), message)


def _size_faults(study: StudySpec, document: Document, specs: Specs) -> Iterator[Fault]:
    """Find victims that see images of another size than a data set has: images are resized only where a spec says so.

    A convolutional encoder would take them at any size, and its accuracy would be that of another task.
    """
    axes = [(("dataset",), study.dataset), *((("downstream", i), name) for i, name in enumerate(study.downstream))]
    for path, name in axes:
        if not (dataset := specs["datasets", name]):
            continue
        for victim in (victim for victim in study.victims if specs["victims", victim]):
            size = specs["victims", victim].views.size
            if size != dataset.image_size:
                has = f"{name} has images of {dataset.image_size} pixels, but {victim} sees {size}"
                yield document.fault(("study", *path), f"{has}; {_advice(name, size, specs)}")


def _defense_faults(study: StudySpec, document: Document, specs: Specs) -> Iterator[Fault]:
    """Find defenses that cannot defend one of the study's victims: its grid would have cells that cannot run."""
    for index, name in enumerate(study.defenses):
        for victim in study.victims:
            defense, learner = specs["defenses", name], specs["victims", victim]
            if defense and learner and (reason := defense.victim_fault(learner)):
                yield document.fault(("study", "defenses", index), f"{name} cannot defend {victim}: {reason}")


def _advice(name: str, size: int, specs: Specs) -> str:
    """Say which data set to name instead, or how to declare one."""
    pixels = {"image_size", "mean", "std"}  # all that may differ where the images are the same
    images = specs["datasets", name].model_dump(exclude=pixels)
    fitting = [
        other
        for (group, other), spec in specs.items()
        if group == "datasets" and spec and spec.image_size == size and spec.model_dump(exclude=pixels) == images
    ]
    if fitting:
        return f"name {' or '.join(fitting)}"
    return f"declare it at that size in a spec of its own, with `image_size: {size}`"
