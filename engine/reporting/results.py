"""A study's results, read back; what is not there is listed, never invented."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from engine.artifacts import read_manifest
from engine.artifacts.files import ArtifactError
from engine.reporting.readings import Accuracy, Cost, Curve, MeasuredPerturbation, TrainingCost, parse, read_curve
from engine.spec import DefenseSpec
from engine.specfiles import load, resolved
from engine.study import Cell, StudySpec, cells, cost_path, floor_path, perturbation_path, poison_path

REFERENCE_KIND = "clean"
"""The attack that leaves the images alone: what every poison is compared with."""

UNDEFENDED_KIND = "none"
"""The defense that does nothing: what every defense is compared with."""

REMAINDER_KIND = "clean_remainder"
"""The attack that withholds images and leaves the others alone: what partly poisoned data sets are compared with."""

Read = TypeVar("Read")


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
    """Everything that a report is made of.

    ``victims`` and ``protocol`` are specs with every default filled in, ``costs`` lie under the names of DVC's stages.
    """

    study: StudySpec
    poisons: dict[str, PoisonFacts] = field(default_factory=dict)
    defenses: dict[str, DefenseSpec] = field(default_factory=dict)
    victims: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    perturbations: dict[str, MeasuredPerturbation] = field(default_factory=dict)
    accuracies: dict[tuple[Cell, str], Accuracy] = field(default_factory=dict)
    floors: dict[FloorKey, Accuracy] = field(default_factory=dict)
    curves: dict[Cell, Curve] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)

    @property
    def reference(self) -> str | None:
        """Return the name of the clean poison, the first where there are several."""
        return next((name for name, facts in self.poisons.items() if facts.is_reference), None)

    @property
    def undefended(self) -> str | None:
        """Return the name of the defense that does nothing, the first where there are several."""
        return next((name for name, spec in self.defenses.items() if spec.kind == UNDEFENDED_KIND), None)

    @property
    def dataset(self) -> dict[str, Any] | None:
        """Return the spec of the data set, as the poisons that are there say it; None where none is."""
        manifests = (facts.manifest for facts in self.poisons.values() if facts.manifest)
        return next((manifest["dataset"]["spec"] for manifest in manifests), None)

    def training_cost(self, cell: Cell) -> TrainingCost | None:
        """Return what a cell's training took; None where nobody noted it."""
        found = self.costs.get(pretrain_stage(cell))
        return found if isinstance(found, TrainingCost) else None

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


def generate_stage(poison: str) -> str:
    """Return the name under which DVC knows what makes a poison."""
    return f"generate@{poison}"


def pretrain_stage(cell: Cell) -> str:
    """Return the name under which DVC knows the training of a cell."""
    return f"pretrain@{cell.key}"


def probe_stage(cell: str, downstream: str) -> str:
    """Return the name under which DVC knows the probe of the cell with a key."""
    return f"probe@{cell}-{downstream}"


def floor_stage(key: FloorKey) -> str:
    """Return the name under which DVC knows the probe of an untrained network."""
    return f"floor@{key.victim}-{key.seed}-{key.downstream}"


def floor_keys(study: StudySpec) -> Iterator[FloorKey]:
    """Yield every untrained network and data set of a study."""
    for key in itertools.product(study.victims, study.seeds, study.downstream):
        yield FloorKey(*key)


def read_results(study: StudySpec) -> Results:
    """Read what a study has made so far."""
    results = Results(
        study,
        defenses={name: load("defenses", name) for name in study.defenses},
        victims={name: resolved(load("victims", name)) for name in study.victims},
        protocol=resolved(load("protocols", study.protocol)),
    )
    for name in study.poisons:
        results.poisons[name] = _poison(results, name)
    for key in floor_keys(study):
        if found := _read_accuracy(results, floor_stage(key), floor_path(study.dataset, *key)):
            results.floors[key] = found
    for cell in cells(study):
        _read_cell(results, cell)
    return results


def precisions(results: Results) -> list[str]:
    """Return the precisions that networks were trained in; none where all were in float32."""
    found = {accuracy.precision for accuracy in results.accuracies.values()}
    return sorted(found) if found - {"fp32"} else []


def _read_cell(results: Results, cell: Cell) -> None:
    stage = pretrain_stage(cell)
    curve = results.read(stage, lambda: read_curve(cell.curve))
    if curve is not None:
        results.curves[cell] = curve
    _read_cost(results, stage, TrainingCost)
    for downstream in results.study.downstream:
        if found := _read_accuracy(results, probe_stage(cell.key, downstream), cell.probe(downstream)):
            results.accuracies[cell, downstream] = found


def _read_accuracy(results: Results, stage: str, file: Path) -> Accuracy | None:
    _read_cost(results, stage, Cost)
    return results.read(stage, lambda: parse(file, Accuracy))


def _read_cost(results: Results, stage: str, model: type[Cost]) -> None:
    """Read what a stage took; without a file it is unknown, and no result is missing."""
    file = cost_path(results.study.dataset, stage)
    if file.exists() and (cost := results.read(stage, lambda: parse(file, model))):
        results.costs[stage] = cost


def _poison(results: Results, name: str) -> PoisonFacts:
    entry, stage = results.study.poisons[name], generate_stage(name)
    folder = poison_path(results.study.dataset, name)
    _read_cost(results, stage, Cost)
    manifest = results.read(stage, lambda: read_manifest(folder))
    if manifest is None:
        return PoisonFacts(name, entry.attack, entry.init, resolved(load("attacks", entry.attack)))
    file = perturbation_path(results.study.dataset, name)
    if found := results.read(stage, lambda: parse(file, MeasuredPerturbation)):
        results.perturbations[name] = found
    from safetensors.numpy import load_file

    preview = load_file(folder / "preview.safetensors")
    return PoisonFacts(name, entry.attack, entry.init, manifest["attack"]["spec"], manifest, preview)
