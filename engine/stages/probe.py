"""Probe: judge one encoder on one downstream data set; floor: judge the untrained one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from engine import plugins
from engine.artifacts import read_manifest, read_poison
from engine.artifacts.encoder import read_classifier, read_encoder
from engine.artifacts.files import sha256, write_json
from engine.errors import EngineError
from engine.machine import Machine
from engine.metering import Meter
from engine.progress import progress_of
from engine.protocols import Job, Source, Split
from engine.randomness import stream
from engine.spec import ProtocolSpec
from engine.specfiles import load, resolved
from engine.stages.inputs import command_of, load_dataset, numerics, source_of
from engine.stages.originals import some_images
from engine.stages.pretrain import fresh_victim
from engine.study import Cell, cost_path, floor_path, poison_path

if TYPE_CHECKING:
    from torch import nn

    from engine.views import Views

MOST_IMAGES = 1_000  # of a histogram of distances
BINS = 100  # of cosine distances from 0 to 2


@dataclass(frozen=True)
class Judged:
    """What is judged: an encoder, and the classifier that learnt the same classes with it, where there is one.

    ``views`` are those that the encoder was trained on, ``precision`` the one in which.
    """

    encoder: nn.Module
    classifier: nn.Module | None
    views: tuple[Views, ...]
    precision: str = "fp32"


def probe_job(cell: Cell, downstream: str, protocol: str) -> Job:
    """Return the job that judges the cell's encoder on a data set."""
    about = {**_judging(cell.seed, downstream, protocol), "encoder": sha256(cell.encoder)}
    key = f"{cell.key}-{downstream}"
    return Job(
        "probe",
        key,
        cell.dataset,
        command_of("probe", {**asdict(cell), "downstream": downstream, "protocol": protocol}),
        (cell.probe(downstream), cost_path(cell.dataset, f"probe@{key}")),
        "fp32",
        about,
        lambda machine: probe(cell, downstream, protocol, machine),
    )


def _judging(seed: int, downstream: str, protocol: str) -> dict[str, Any]:
    return {
        "seed": seed,
        "downstream": {"name": downstream, "spec": resolved(load("datasets", downstream))},
        "protocol": {"name": protocol, "spec": resolved(load("protocols", protocol))},
        "numerics": numerics("probe"),
    }


def probe(cell: Cell, downstream: str, protocol: str, machine: Machine) -> Path:
    """Judge the cell's encoder and return the file of its accuracies."""
    meter = Meter(machine)
    spec: ProtocolSpec = load("protocols", protocol)
    _, split = load_dataset(downstream)
    originals = split
    if spec.train_set == "poisoned":
        if downstream != cell.dataset:
            raise EngineError(
                f"specs/protocols/{protocol}.yaml probes on the poisoned training set, "
                f"which {downstream!r} does not have; only {cell.dataset!r} does"
            )
        split = Split(read_poison(poison_path(cell.dataset, cell.poison)).images, split.test)
    is_own = downstream == cell.dataset
    judged = stored(cell, with_classifier=is_own)
    target = cell.probe(downstream)
    title = f"probe {cell.key} on {downstream}"
    accuracies = _accuracies(judged, split, spec, machine, seed=cell.seed, title=title)
    distances = _view_distances(judged, cell, originals, machine) if is_own else None
    reduced = {} if judged.precision == "fp32" else {"precision": judged.precision}
    write_json(target, {**accuracies, **reduced, "view_distances": distances})
    write_json(cost_path(cell.dataset, f"probe@{cell.key}-{downstream}"), meter.record())
    return target


def stored(cell: Cell, *, with_classifier: bool) -> Judged:
    """Build the networks that a cell's artifact describes and holds."""
    state, about = read_encoder(cell.encoder)
    source = Source(**about["source"])
    spec = TypeAdapter(plugins.spec_of("victims")).validate_python(about["victim"]["spec"], strict=False)
    victim = fresh_victim(spec, source, cell.seed)
    victim.encoder.load_state_dict(state)
    learnt = read_classifier(cell.encoder) if with_classifier else None
    if learnt is None:
        return Judged(victim.encoder, None, victim.views, about["precision"])
    if victim.classifier is None:
        raise EngineError(
            f"{cell.encoder} holds a classifier, but victim {cell.victim!r} no longer has one; retrain it"
        )
    victim.classifier.load_state_dict(learnt)
    return Judged(victim.encoder, victim.classifier, victim.views, about["precision"])


def _view_distances(judged: Judged, cell: Cell, originals: Split, machine: Machine) -> dict[str, list[Any] | None]:
    """Return how far apart the features of two views are: histograms of released images, and of their originals.

    Both are drawn with the same parameters, so that they differ by the pixels alone.

    Source: He, Zha & Katabi 2023, figures 4d and 8.
    """
    from engine.analysis import distance_histogram
    from engine.training.measures import two_of
    from engine.training.probe import encode

    manifest = read_manifest(poison_path(cell.dataset, cell.poison))
    images = some_images(cell, manifest, originals, MOST_IMAGES, stream(cell.seed, "distances", "images"))
    found: dict[str, list[Any] | None] = {"edges": [round(2 * edge / BINS, 6) for edge in range(BINS + 1)]}
    with machine.run():
        machine.place(judged.encoder)
        for name in ("released", "clean"):
            draws = stream(cell.seed, "distances", "views")
            found[name] = None
            if name in images:
                on_device = images[name].to(machine.device)
                features = [encode(judged.encoder, on_device, view, draws) for view in two_of(judged.views)]
                found[name] = distance_histogram(*features, bins=BINS).tolist()
    return found


def floor_job(dataset: str, victim: str, seed: int, downstream: str, protocol: str) -> Job:
    """Return the job that judges the encoder that a seed starts from."""
    about = {
        **_judging(seed, downstream, protocol),
        "victim": {"name": victim, "spec": resolved(load("victims", victim))},
        "dataset": {"name": dataset, "spec": resolved(load("datasets", dataset))},
    }
    options = {"dataset": dataset, "victim": victim, "seed": seed, "downstream": downstream, "protocol": protocol}
    target, key = floor_path(dataset, victim, seed, downstream), f"{victim}-{seed}-{downstream}"
    return Job(
        "floor",
        key,
        dataset,
        command_of("floor", options),
        (target, cost_path(dataset, f"floor@{key}")),
        "fp32",
        about,
        lambda machine: floor(dataset, victim, seed, downstream, protocol, machine),
    )


def floor(dataset: str, victim: str, seed: int, downstream: str, protocol: str, machine: Machine) -> Path:
    """Judge the encoder that a seed starts from, before any training, and return its file.

    What training gains over this floor is what a poison can take away.
    """
    meter = Meter(machine)
    spec: ProtocolSpec = load("protocols", protocol)
    dataset_spec, pretraining = load_dataset(dataset)
    split = pretraining if downstream == dataset else load_dataset(downstream)[1]
    source = source_of(dataset_spec, pretraining)
    fresh = fresh_victim(load("victims", victim), source, seed)
    judged = Judged(fresh.encoder, fresh.classifier if downstream == dataset else None, fresh.views)
    target = floor_path(dataset, victim, seed, downstream)
    title = f"floor {victim}-{seed} on {downstream}"
    write_json(target, _accuracies(judged, split, spec, machine, seed=seed, title=title))
    write_json(cost_path(dataset, f"floor@{victim}-{seed}-{downstream}"), meter.record())
    return target


def _accuracies(
    judged: Judged, split: Split, spec: ProtocolSpec, machine: Machine, *, seed: int, title: str
) -> dict[str, Any]:
    from engine.training.probe import LinearProbe, classifier_accuracy, encode, knn_accuracy, linear_accuracy

    encoder, head = judged.encoder, None

    with machine.run(), progress_of(title) as progress:
        machine.place(encoder)
        train, test = split.train.to(machine.device), split.test.to(machine.device)
        features = [encode(encoder, half.images_u8, None, None) for half in (train, test)]
        knn = knn_accuracy(
            features[0], train.labels, features[1], test.labels, k=spec.knn.k, temperature=spec.knn.temperature
        )
        if judged.classifier is not None:
            head = classifier_accuracy(machine.place(judged.classifier), features[1], test.labels)
        progress(1, 2, f"kNN {knn:.1%}")
        linear = linear_accuracy(encoder, Split(train, test), probe=LinearProbe(**spec.linear.model_dump()), seed=seed)
        progress(2, 2, f"kNN {knn:.1%}, linear {linear:.1%}")
    return {
        "linear": round(100 * linear, 4),
        "knn": round(100 * knn, 4),
        "head": None if head is None else round(100 * head, 4),
        "train_set": spec.train_set,
        "select": spec.linear.select,
        "train_images": len(train),
        "test_images": len(test),
        "numerics": numerics("probe"),
    }
