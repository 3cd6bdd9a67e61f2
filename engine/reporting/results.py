"""A study's results, read back; what is not there is listed, never invented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.artifacts.files import ArtifactError
from engine.artifacts.poison import read_manifest
from engine.reporting.readings import Curve, parse, read_curve
from engine.spec import DefenseSpec
from engine.specfiles import load, resolved
from engine.study import Cell, StudySpec, cells, floor_path, poison_path

REFERENCE_KIND = "clean"
"""The attack that leaves the images alone: what every poison is compared with."""

UNDEFENDED_KIND = "none"
"""The defense that does nothing: what every defense is compared with."""

REMAINDER_KIND = "clean_remainder"
"""The attack that withholds images and leaves the others alone: what partly poisoned data sets are compared with."""

Read = TypeVar("Read")
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]


class ViewDistances(BaseModel):
    """How far apart two views of an image are: histograms of released images, and of their clean originals.

    Units: edges in cosine distance, from 0 to 2; the others in images, one number between two edges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    edges: tuple[float, ...]
    released: tuple[Count, ...]
    clean: tuple[Count, ...] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for counts in filter(None, (self.released, self.clean)):
            if len(counts) != len(self.edges) - 1 or not any(counts):
                raise ValueError("needs one more edge than bins, and an image")
        return self


class Accuracy(BaseModel):
    """What a probe measured, and how.

    Units: linear, knn and head in percent; head is the learner's own classifier, where it has one. Distances of views
    are measured on the data set that the encoder was trained on alone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    linear: Percent
    knn: Percent
    head: Percent | None = None
    train_set: str
    select: str
    train_images: int
    test_images: int
    numerics: int
    view_distances: ViewDistances | None = None

    @property
    def protocol(self) -> tuple[str, str, int]:
        """Return what two numbers must share before one may be subtracted from the other."""
        return self.train_set, self.select, self.numerics


class Cost(BaseModel):
    """How long an epoch of a training took, and on what kind of device."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    seconds_per_epoch: Annotated[float, Field(gt=0)]
    device: str


class FloorKey(NamedTuple):
    """Which untrained network was judged on which data set."""

    victim: str
    seed: int
    downstream: str


@dataclass(frozen=True)
class Missing:
    """A result that is not there: the DVC stage that makes it, and why it could not be read."""

    stage: str
    reason: str

    @property
    def command(self) -> str:
        """Return what makes it."""
        return f"dvc repro {self.stage}"


@dataclass(frozen=True)
class PoisonFacts:
    """What is known of one poison beside the accuracies it leaves.

    Shapes: preview holds ``clean`` and ``poisoned``, uint8 [classes, 3, H, W].
    """

    name: str
    attack: str
    init: str
    spec: dict[str, Any]
    manifest: dict[str, Any] | None = None
    preview: dict[str, np.ndarray] | None = None

    @property
    def is_reference(self) -> bool:
        """Say whether the images are as they were."""
        return bool(self.spec["kind"] == REFERENCE_KIND)

    @property
    def is_attack(self) -> bool:
        """Say whether images are perturbed: a reference has nothing to rank."""
        return self.spec["kind"] not in (REFERENCE_KIND, REMAINDER_KIND)

    @property
    def poison_fraction(self) -> float:
        """Return the share of the images that the attack is about."""
        return float(self.spec["poison_fraction"])


@dataclass
class Results:
    """Everything that a report is made of."""

    study: StudySpec
    poisons: dict[str, PoisonFacts] = field(default_factory=dict)
    defenses: dict[str, DefenseSpec] = field(default_factory=dict)
    accuracies: dict[tuple[Cell, str], Accuracy] = field(default_factory=dict)
    floors: dict[FloorKey, Accuracy] = field(default_factory=dict)
    curves: dict[Cell, Curve] = field(default_factory=dict)
    costs: dict[Cell, Cost] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)

    @property
    def reference(self) -> str | None:
        """Return the name of the clean poison, the first where there are several."""
        return next((name for name, facts in self.poisons.items() if facts.is_reference), None)

    @property
    def undefended(self) -> str | None:
        """Return the name of the defense that does nothing, the first where there are several."""
        return next((name for name, spec in self.defenses.items() if spec.kind == UNDEFENDED_KIND), None)

    def chain(self, facts: PoisonFacts) -> list[PoisonFacts]:
        """Return a poison and those that its noise starts from."""
        chain = [facts]
        while chain[-1].init in self.poisons:
            chain.append(self.poisons[chain[-1].init])
        return chain

    def image_views(self, facts: PoisonFacts) -> int | None:
        """Return what a poison cost, with those that its noise starts from; None where one is missing."""
        manifests = [link.manifest for link in self.chain(facts)]
        if not all(manifests):
            return None
        return sum(manifest["image_views"] for manifest in manifests if manifest)

    def read(self, stage: str, reader: Callable[[], Read]) -> Read | None:
        """Return what a reader returns; a fault of its file is noted under the stage that makes it."""
        try:
            return reader()
        except (ArtifactError, OSError, UnicodeDecodeError) as error:
            self.missing.append(Missing(stage, str(error)))
        return None


def probe_stage(cell: str, downstream: str) -> str:
    """Return the name under which DVC knows the probe of the cell with a key."""
    return f"probe@{cell}-{downstream}"


def floor_stage(key: FloorKey) -> str:
    """Return the name under which DVC knows the probe of an untrained network."""
    return f"floor@{key.victim}-{key.seed}-{key.downstream}"


def read_results(study: StudySpec) -> Results:
    """Read what a study has made so far."""
    results = Results(study, defenses={name: load("defenses", name) for name in study.defenses})
    for name in study.poisons:
        results.poisons[name] = _poison(results, name)
    for victim in study.victims:
        for seed in study.seeds:
            for downstream in study.downstream:
                key = FloorKey(victim, seed, downstream)
                file = floor_path(study.dataset, *key)
                if found := results.read(floor_stage(key), lambda file=file: parse(file, Accuracy)):  # type: ignore[misc]
                    results.floors[key] = found
    for cell in cells(study):
        _read_cell(results, cell)
    return results


def _read_cell(results: Results, cell: Cell) -> None:
    curve = results.read(f"pretrain@{cell.key}", lambda: read_curve(cell.curve))
    if curve is not None:
        results.curves[cell] = curve
    # Without a file the time is unknown, and no result is missing: encoders are older than times.
    if cell.cost.exists() and (cost := results.read(f"pretrain@{cell.key}", lambda: parse(cell.cost, Cost))):
        results.costs[cell] = cost
    for downstream in results.study.downstream:
        file = cell.probe(downstream)
        stage = probe_stage(cell.key, downstream)
        if found := results.read(stage, lambda file=file: parse(file, Accuracy)):  # type: ignore[misc]
            results.accuracies[cell, downstream] = found


def _poison(results: Results, name: str) -> PoisonFacts:
    entry = results.study.poisons[name]
    folder = poison_path(results.study.dataset, name)
    manifest = results.read(f"generate@{name}", lambda: read_manifest(folder))
    if manifest is None:
        return PoisonFacts(name, entry.attack, entry.init, resolved(load("attacks", entry.attack)))
    from safetensors.numpy import load_file

    preview = load_file(folder / "preview.safetensors")
    return PoisonFacts(name, entry.attack, entry.init, manifest["attack"]["spec"], manifest, preview)
