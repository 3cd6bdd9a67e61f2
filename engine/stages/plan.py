"""Plan: what a study would run, and what that would take, before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

from engine import plugins
from engine.images.presence import DatasetMissing
from engine.params import Params, load_params
from engine.spec import AttackSpec, DatasetSpec, DefenseSpec, ProtocolSpec
from engine.specfiles import SpecFault, load
from engine.stages.inputs import command_of, load_dataset
from engine.stages.rehearsal import Learning, Pace
from engine.stages.validate import check
from engine.study import Cell, StudySpec, cells, load_study
from engine.victimspec import VictimSpec

UNDEFENDED = "none"
AT_LEAST, AT_MOST, EXACT = "at least", "at most", ""


@dataclass(frozen=True)
class Step:
    """One stage of one cell, as DVC would run it.

    ``image_views`` are None where nobody knows how many images there are; a probe's are encodings. ``bound`` says
    whether more or fewer may be needed. ``images`` and ``noise`` are what every process holds on its device of a data
    set, and what the processes share out of its noise.

    Units: images and noise in bytes.
    """

    stage: str
    command: tuple[str, ...]
    image_views: int | None
    learning: Learning | None = None
    bound: str = EXACT
    is_shared: bool = False
    images: int = 0
    noise: int = 0


@dataclass(frozen=True)
class Forecast:
    """What a step would take, where its pace was measured.

    Units: seconds of one device, summed over those that share the step, and of the clock; memory in bytes.
    """

    step: Step
    device_seconds: float | None = None
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Size:
    """How many images a data set has; None where its spec does not say and it is not here."""

    train: int | None
    test: int | None
    classes: int | None = None

    def released(self, attack: AttackSpec) -> int | None:
        """Return how many training images a poison of an attack leaves."""
        if self.train is None:
            return None
        classes = self.classes or 1
        return self.train - classes * round(attack.withheld_fraction * (self.train // classes))


def size_of(name: str) -> Size:
    """Return a data set's size: what its spec or its kind says, else what is read."""
    spec: DatasetSpec = load("datasets", name)
    train, test = spec.counts
    if train and test:
        return Size(train, test, spec.num_classes)
    try:
        _, split = load_dataset(name)
    except DatasetMissing:
        return Size(None, None)
    return Size(len(split.train), len(split.test), len(split.train.class_names))


@dataclass(frozen=True)
class Plan:
    """The steps of a study, in the order of its stages."""

    study: StudySpec
    params: Params

    @cached_property
    def _spec(self) -> Callable[[str, str], Any]:
        """Return what loads a spec of a group, and reads its file once."""
        return cache(load)

    @cached_property
    def sizes(self) -> dict[str, Size]:
        """Return the size of every data set."""
        return {name: size_of(name) for name in {self.study.dataset, *self.study.downstream}}

    def steps(self) -> Iterator[Step]:
        """Yield every step."""
        yield from self._generate()
        yield from map(self._pretrain, cells(self.study))
        yield from self._floors()
        for cell, downstream in itertools.product(cells(self.study), self.study.downstream):
            yield self._probe(cell, downstream)

    @property
    def _dataset(self) -> DatasetSpec:
        spec: DatasetSpec = self._spec("datasets", self.study.dataset)
        return spec

    def _generate(self) -> Iterator[Step]:
        undefended = plugins.module_of("defenses", UNDEFENDED).Spec(kind=UNDEFENDED)
        for name, entry in self.study.poisons.items():
            attack: AttackSpec = self._spec("attacks", entry.attack)
            options = {"dataset": self.study.dataset, "name": name, "attack": entry.attack, "init": entry.init}
            yield Step(
                f"generate@{name}",
                command_of("generate", {**options, "precision": self.params.precision}),
                self._crafted(attack),
                None if attack.learner is None else Learning(attack.learner, self._dataset, undefended),
                AT_MOST if attack.may_end_early else EXACT,
                is_shared=True,
                **self._kept_by(attack),
            )

    def _kept_by(self, attack: AttackSpec) -> dict[str, int]:
        """Return what an attack keeps on its devices: eight-bit images, and for each of them half-precision noise."""
        pixels = (self.sizes[self.study.dataset].train or 0) * 3 * self._dataset.image_size**2
        return {"images": pixels, "noise": 2 * pixels if getattr(attack, "granularity", None) == "sample" else 0}

    def _crafted(self, attack: AttackSpec) -> int | None:
        images = self.sizes[self.study.dataset].train
        if attack.learner is None:
            return 0
        return None if images is None else attack.image_views(images)

    def _pretrain(self, cell: Cell) -> Step:
        victim: VictimSpec = self._spec("victims", cell.victim)
        defense: DefenseSpec = self._spec("defenses", cell.defense)
        images = self._released(cell)
        return Step(
            f"pretrain@{cell.key}",
            command_of("pretrain", {**asdict(cell), "precision": self.params.precision}),
            None if images is None else victim.image_views(images),
            Learning(victim, self._dataset, defense),
            AT_LEAST if plugins.build("defenses", defense).changes_dataset else EXACT,
            is_shared=True,
        )

    def _floors(self) -> Iterator[Step]:
        study = self.study
        for victim, seed, downstream in itertools.product(study.victims, study.seeds, study.downstream):
            options = {"dataset": study.dataset, "victim": victim, "seed": seed, "downstream": downstream}
            size = self.sizes[downstream]
            yield self._judged("floor", f"{victim}-{seed}-{downstream}", options, victim, size.train)

    def _probe(self, cell: Cell, downstream: str) -> Step:
        protocol: ProtocolSpec = self._spec("protocols", self.study.protocol)
        train = self._released(cell) if protocol.train_set == "poisoned" else self.sizes[downstream].train
        options = {**asdict(cell), "downstream": downstream}
        return self._judged("probe", f"{cell.key}-{downstream}", options, cell.victim, train)

    def _judged(self, stage: str, key: str, options: dict[str, object], victim: str, train: int | None) -> Step:
        protocol: ProtocolSpec = self._spec("protocols", self.study.protocol)
        downstream = str(options["downstream"])
        test = self.sizes[downstream].test
        return Step(
            f"{stage}@{key}",
            command_of(stage, {**options, "protocol": self.study.protocol}),
            None if train is None or test is None else protocol.encodings(train, test),
            Learning(self._spec("victims", victim), self._spec("datasets", downstream)),
        )

    def _released(self, cell: Cell) -> int | None:
        attack: AttackSpec = self._spec("attacks", self.study.poisons[cell.poison].attack)
        return self.sizes[self.study.dataset].released(attack)


def plan_of(study_name: str) -> Plan:
    """Return the plan of a study.

    Raises:
        SpecFault: a spec or a cell of the project is wrong.
    """
    return plans_of([study_name])[0]


def plans_of(names: Sequence[str]) -> list[Plan]:
    """Return the plans of several studies.

    Raises:
        SpecFault: a spec or a cell of the project is wrong.
    """
    studies = [load_study(name) for name in names]
    if faults := check()[1]:
        raise SpecFault(faults)
    return [Plan(study, load_params()) for study in studies]


def forecast(step: Step, pace: Pace | None, processes: int) -> Forecast:
    """Return what a step would take; its time is unknown without a pace or a number of images.

    Where processes share a step, its time is what it would be if they lost none to each other.
    """
    memory = None
    if pace is not None and pace.memory is not None:
        memory = pace.memory + step.images + step.noise // processes
    if pace is None or step.image_views is None:
        return Forecast(step, memory=memory)
    seconds = step.image_views * pace.seconds
    return Forecast(step, seconds, seconds / (processes if step.is_shared else 1), memory)
