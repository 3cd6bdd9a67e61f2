"""Pretrain: train one victim on one poisoned data set, under one defense."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine import plugins
from engine.artifacts import encoded_images, read_images, read_manifest
from engine.artifacts.encoder import write_encoder
from engine.artifacts.files import sha256, write_csv, write_json
from engine.errors import EngineError
from engine.journal import Journal
from engine.machine import Machine
from engine.metering import Meter
from engine.processes import is_first
from engine.progress import progress_of
from engine.protocols import MEASURES, Defense, DefenseContext, Feed, Job, Measure, Progress, Source, Victim
from engine.randomness import stream
from engine.spec import DefenseSpec
from engine.specfiles import load, resolved
from engine.stages.inputs import command_of, journal_of, load_dataset, numerics
from engine.stages.originals import originals, some_images
from engine.study import Cell, poison_path
from engine.victimspec import VictimSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def pretrain_job(cell: Cell, precision: str) -> Job:
    """Return the job that trains the cell's victim on the released images.

    Raises:
        EngineError: the defense cannot defend this victim.
    """
    spec: VictimSpec = load("victims", cell.victim)
    defense_spec: DefenseSpec = load("defenses", cell.defense)
    if fault := defense_spec.victim_fault(spec):
        raise EngineError(f"specs/defenses/{cell.defense}.yaml cannot defend {cell.victim}: {fault}")
    poison = poison_path(cell.dataset, cell.poison)
    about = {
        "victim": {"name": cell.victim, "spec": resolved(spec)},
        "defense": {"name": cell.defense, "spec": resolved(defense_spec)},
        "seed": cell.seed,
        "poison": {"name": cell.poison, "manifest": sha256(poison / "manifest.json")},
        "precision": precision,
        "numerics": numerics("pretrain"),
    }
    return Job(
        "pretrain",
        cell.key,
        cell.dataset,
        command_of("pretrain", {**asdict(cell), "precision": precision}),
        (cell.encoder, cell.curve, cell.cost),
        precision,
        about,
        lambda machine: pretrain(cell, about, machine),
        is_shared=True,
    )


def pretrain(cell: Cell, about: dict[str, Any], machine: Machine) -> None:
    """Train the cell's victim on the released images, and write its encoder, which says what it was made of."""
    meter = Meter(machine)
    manifest = read_manifest(poison_path(cell.dataset, cell.poison))
    source = source_in(manifest)
    spec, defense = load("victims", cell.victim), plugins.build("defenses", load("defenses", cell.defense))
    journal = journal_of("pretrain", cell.dataset, cell.key, about, machine)
    with machine.run(), progress_of(f"pretrain {cell.key}") as progress, journal.open():
        clock = _Clock(progress)
        journal.keep("meter", meter)
        journal.keep("clock", clock)
        victim, curve = _Pretraining(cell, spec, manifest, source, machine, clock, journal).defended(defense)
        if is_first():
            described = {"mean": list(source.mean), "std": list(source.std), "num_classes": source.num_classes}
            _write(cell, victim, curve, {**about, "source": described})
            write_json(cell.cost, {**meter.record(), "seconds_per_epoch": clock.seconds_per_epoch})


def _write(cell: Cell, victim: Victim, curve: list[dict[str, float]], about: dict[str, Any]) -> None:
    classifier = victim.classifier.state_dict() if victim.classifier is not None else None
    write_encoder(cell.encoder, victim.encoder.state_dict(), about, classifier)
    write_csv(cell.curve, [{**row, **{name: row.get(name) for name in MEASURES}} for row in curve])


class _Clock:
    """Progress that knows how long an epoch takes."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.mark = time.perf_counter()
        self.durations: list[float] = []

    def __call__(self, done: int, total: int, note: str) -> None:
        """Report on, and look at the time."""
        now = time.perf_counter()
        self.durations = [*(self.durations if done > 1 else []), now - self.mark]
        self.mark = now
        self.progress(done, total, note)

    def apart(self, measure: Measure) -> Measure:
        """Return a measure whose time belongs to no epoch."""

        def timed(epoch: int) -> dict[str, float]:
            start = time.perf_counter()
            found = measure(epoch)
            self.mark += time.perf_counter() - start
            return found

        return timed

    @property
    def seconds_per_epoch(self) -> float:
        """Return the median over the epochs of the last training."""
        return statistics.median(self.durations)

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted run has seen, the part of an epoch that it was in included."""
        return {"durations": self.durations, "since": time.perf_counter() - self.mark}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as if no time had passed."""
        self.durations, self.mark = state["durations"], time.perf_counter() - state["since"]


@dataclass(frozen=True)
class _Pretraining:
    """One cell's training, under a defense or without."""

    cell: Cell
    spec: VictimSpec
    manifest: dict[str, Any]
    source: Source
    machine: Machine
    clock: _Clock
    journal: Journal

    def defended(self, defense: Defense) -> tuple[Victim, list[dict[str, float]]]:
        """Train on the released images under a defense; return the learner and its curve."""
        from engine.training.measures import Measures

        seed, measured = self.cell.seed, self._measured_images()
        at_dataset, at_objective = (
            DefenseContext(stream(seed, "defense", name), self.machine.precision, self._undefended)
            for name in ("dataset", "objective")
        )
        # Before training it is drawn from again after a stop, as then; while training, it goes on from where it was.
        self.journal.keep("objective", at_objective.generator)
        with self._training_set(defense, at_dataset) as feed:
            victim = defense.on_objective(fresh_victim(self.spec, self.source, seed), at_objective)
            measures = Measures(victim, measured, self.spec.epochs, self.machine.precision, seed)
            return victim, self._train(victim, feed, defense, self.clock.apart(measures))

    def _measured_images(self) -> dict[str, Tensor]:
        """Return a fixed sample of the released images, and their originals, under the prefixes of their columns."""
        from engine.training.measures import MOST_IMAGES

        draws = stream(self.cell.seed, "measure", "images")
        found = some_images(self.cell, self.manifest, originals(self.cell), MOST_IMAGES, draws)
        prefixes = {"released": "", "clean": "clean_"}
        return {prefixes[name]: images_u8.to(self.machine.device) for name, images_u8 in found.items()}

    def _undefended(self, which: Literal["released", "clean"]) -> nn.Module:
        """Return the encoder of the victim, trained as it would be without a defense."""
        victim = fresh_victim(self.spec, self.source, self.cell.seed)
        self.machine.place(victim.network)
        trained = self.journal.once(f"undefended_{which}", lambda: self._train_undefended(victim, which))
        victim.encoder.load_state_dict(trained)
        return victim.encoder.eval()

    def _train_undefended(self, victim: Victim, which: Literal["released", "clean"]) -> dict[str, Tensor]:
        from engine.batching import Resident

        if which == "released":
            images = read_images(poison_path(self.cell.dataset, self.cell.poison), self.manifest)
        else:
            _, split = load_dataset(self.cell.dataset)
            images = split.train
        self._train(victim, Resident(images.to(self.machine.device)), Defense())
        return victim.encoder.state_dict()

    def _train(
        self, victim: Victim, feed: Feed, defense: Defense, measure: Measure | None = None
    ) -> list[dict[str, float]]:
        from engine.training.pretrain import Course, Recipe, pretrain, unmeasured

        self.machine.place(victim.network)
        return pretrain(
            victim,
            feed,
            recipe=Recipe(**self.spec.recipe()),
            defense=defense,
            precision=self.machine.precision,
            seed=self.cell.seed,
            progress=self.clock,
            course=Course(measure or unmeasured, self.journal),
        )

    @contextmanager
    def _training_set(self, defense: Defense, context: DefenseContext) -> Iterator[Feed]:
        """Yield the released images: from the device's memory where they fit, else decoded batch by batch.

        Which of them is decided before anything is decoded, and changes no result.

        Raises:
            EngineError: the images do not fit, and the defense must see all of them.
        """
        from engine.batching import Resident
        from engine.streaming import streamed

        folder, machine = poison_path(self.cell.dataset, self.cell.poison), self.machine
        num_bytes = self.manifest["images"] * math.prod(self.manifest["image_shape"])
        if machine.fits(num_bytes):
            images = read_images(folder, self.manifest)
            if defense.changes_dataset:
                images = defense.on_dataset(images, context)
            yield Resident(images.to(machine.device))
        elif defense.changes_dataset:
            raise EngineError(
                f"defense {self.cell.defense!r} changes the whole data set, but its {num_bytes / 1e9:.3g} GB are more "
                "than may stay on the device; raise the layout's resident_gb, or name a larger device there"
            )
        else:
            with streamed(encoded_images(folder), device=machine.device, workers=machine.workers) as feed:
                yield feed


def fresh_victim(spec: VictimSpec, source: Source, seed: int) -> Victim:
    """Build a learner with the initial weights of a seed."""
    victim: Victim = plugins.build("victims", spec, source=source, generator=stream(seed, "victim", "init"))
    return victim


def source_in(manifest: dict[str, Any]) -> Source:
    """Return what a poison's manifest says of its images."""
    declared = manifest["dataset"]["spec"]
    return Source(tuple(declared["mean"]), tuple(declared["std"]), len(manifest["class_names"]))
