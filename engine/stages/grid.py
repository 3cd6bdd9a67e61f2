"""What is wrong between specs that are right by themselves: the poisons, victims, data sets and protocol of a study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.specfiles import Document, Fault, resolved
from engine.study import StudySpec

Specs = dict[tuple[str, str], Any]
"""Every component by group and name; None where its own file is wrong."""


def grid_faults(study: StudySpec, document: Document, specs: Specs) -> list[Fault]:
    """Return what is wrong with a study whose names are all known."""
    return [
        *_start_faults(study, document, specs),
        *_probe_faults(study, document, specs),
        *_protocol_faults(study, document, specs),
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


def _probe_faults(study: StudySpec, document: Document, specs: Specs) -> Iterator[Fault]:
    protocol = specs["protocols", study.protocol]
    if protocol and protocol.train_set == "poisoned":
        for index, name in enumerate(study.downstream):
            if name != study.dataset:
                message = f"protocol {study.protocol!r} probes on the poisoned training set; {name!r} has none"
                yield document.fault(("study", "downstream", index), message)


def _protocol_faults(study: StudySpec, document: Document, specs: Specs) -> Iterator[Fault]:
    """Find attacks and victims that are not as the study's protocol has them."""
    if not (protocol := specs["protocols", study.protocol]):
        return
    for poison, entry in study.poisons.items():
        if attack := specs["attacks", entry.attack]:
            for message in _differences(protocol.attacks.get(attack.kind, {}), resolved(attack)):
                where = f"{entry.attack} has {message}, as protocol {study.protocol!r} has it"
                yield document.fault(("study", "poisons", poison, "attack"), where)
    for index, name in enumerate(study.victims):
        if victim := specs["victims", name]:
            for message in _differences(protocol.victims.get(victim.kind, {}), resolved(victim)):
                where = f"{name} has {message}, as protocol {study.protocol!r} has it"
                yield document.fault(("study", "victims", index), where)


def _differences(wanted: dict[str, Any], given: dict[str, Any], within: str = "") -> Iterator[str]:
    """Yield every field in which a spec differs: only those are compared that are wanted."""
    for key, value in wanted.items():
        found, name = given.get(key), f"{within}{key}"
        if isinstance(value, dict) and isinstance(found, dict):
            yield from _differences(value, found, f"{name}.")
        elif found != value:
            yield f"{name}: {found}, not {value}"


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
