"""The figures that the reference work published, and how far a study's cells are from how they were made.

``published.yaml`` holds them. Units: accuracies in percent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, model_validator

from engine.spec import Name, Spec
from engine.specfiles import SpecFault, parse, read_document

FILE = Path(__file__).with_name("published.yaml")
Pattern = dict[str, JsonValue]
"""Some keys of a spec and their values; numbers may be spelled as in specs."""


class Setup(Spec):
    """A published attack or defense: what a spec must say to be it, and how it was run."""

    matches: Annotated[Pattern, Field(min_length=1)]
    protocol: Pattern = Field(default_factory=dict)


class Learner(Setup):
    """A published victim, and in which measure it was judged."""

    measure: Literal["linear", "head"]


class Figure(Spec):
    """One published accuracy: of one attack, or the average over several."""

    attacks: Annotated[tuple[Name, ...], Field(min_length=1)]
    victim: Name
    defense: Name
    accuracy: Annotated[float, Field(ge=0, le=100)]
    is_rough: bool = False
    source: Annotated[str, Field(min_length=1)]
    inferred: str | None = None


class Published(Spec):
    """Everything that is known of the reference work's tables."""

    work: str
    dataset: Annotated[Pattern, Field(min_length=1)]
    protocol: Pattern
    probe: Pattern
    attacks: dict[Name, Setup]
    victims: dict[Name, Learner]
    defenses: dict[Name, Setup]
    figures: Annotated[tuple[Figure, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_what_it_declares(self) -> Self:
        cells = [(figure.attacks, figure.victim, figure.defense) for figure in self.figures]
        for attacks, victim, defense in cells:
            for group, names in (("attacks", attacks), ("victims", (victim,)), ("defenses", (defense,))):
                if unknown := [name for name in names if name not in getattr(self, group)]:
                    raise ValueError(f"figures: {unknown[0]!r} is not declared under {group}")
            if cells.count((attacks, victim, defense)) > 1:
                raise ValueError(f"figures: {', '.join(attacks)} on {victim} under {defense} is given twice")
        return self


class Run(NamedTuple):
    """The specs of one cell, every default filled in; ``data`` says how many images of which size it saw."""

    attack: Mapping[str, Any]
    victim: Mapping[str, Any]
    defense: Mapping[str, Any]
    data: Mapping[str, Any]
    probe: Mapping[str, Any]


class Difference(NamedTuple):
    """One setting in which a cell is not the published one."""

    setting: str
    own: Any
    published: Any

    def __str__(self) -> str:
        return f"{self.setting} {_written(self.own)} ({_written(self.published)})"


@functools.cache
def load_published(file: Path = FILE) -> Published:
    """Return the published figures.

    Raises:
        SpecFault: the file is damaged; every fault is listed.
    """
    document = read_document(file)
    found: Published | None = parse(document, Published)
    if found is None:
        raise SpecFault(document.faults)
    return found


def figure_of(published: Published, attacks: tuple[Mapping[str, Any], ...], run: Run) -> Figure | None:
    """Return the figure of some attacks under a run's victim and defense; None where none is known."""
    for figure in published.figures:
        patterns = [published.attacks[name].matches for name in figure.attacks]
        if (
            len(patterns) == len(attacks)
            and all(is_match(pattern, attack) for pattern, attack in zip(patterns, attacks, strict=True))
            and is_match(published.victims[figure.victim].matches, run.victim)
            and is_match(published.defenses[figure.defense].matches, run.defense)
        ):
            return figure
    return None


def is_match(pattern: Pattern, spec: Mapping[str, Any]) -> bool:
    """Say whether a spec says everything that a pattern does."""
    return not any(_differences(pattern, spec, ()))


def differences(published: Published, figure: Figure, attack: str, run: Run) -> list[Difference]:
    """Return every setting in which a run is not what a figure's attack of that name was published with."""
    learner = published.victims[figure.victim]
    compared: list[tuple[str, Pattern, Mapping[str, Any]]] = [
        ("", published.protocol, run.data),
        ("attack", published.attacks[attack].protocol, run.attack),
        ("victim", learner.protocol, run.victim),
        ("defense", published.defenses[figure.defense].protocol, run.defense),
    ]
    if learner.measure == "linear":
        compared.append(("probe", published.probe, run.probe))
    return [
        difference
        for prefix, pattern, spec in compared
        for difference in _differences(pattern, spec, (prefix,) if prefix else ())
    ]


def _differences(pattern: Pattern, spec: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Difference]:
    """Yield what differs; of things of another kind, the kind alone."""
    if "kind" in pattern and pattern["kind"] != spec.get("kind"):
        yield Difference(_named((*path, "kind")), spec.get("kind"), pattern["kind"])
        return
    for key, wanted in pattern.items():
        own, here = spec.get(key), (*path, key)
        if isinstance(wanted, dict) and isinstance(own, Mapping):
            yield from _differences(wanted, own, here)
        elif not _is_equal(own, wanted):
            yield Difference(_named(here), own, wanted)


def _named(path: tuple[str, ...]) -> str:
    """Write a setting as people say it: a backbone's kind is the backbone."""
    words = path[:-1] if path[-1] == "kind" and len(path) > 1 else path
    return " ".join(words).replace("_", " ").replace(" rel", "")


def _is_equal(own: Any, wanted: JsonValue) -> bool:
    if isinstance(wanted, list) and isinstance(own, (list, tuple)):
        return len(own) == len(wanted) and all(map(_is_equal, own, wanted))
    wanted = _number(wanted)
    if isinstance(wanted, float) and isinstance(own, (int, float)) and not isinstance(own, bool):
        return math.isclose(own, wanted, rel_tol=1e-4)
    return bool(own == wanted)


def _number(value: JsonValue) -> JsonValue:
    """Return a fraction such as 8/255 as a number, and anything else as it is."""
    if isinstance(value, str) and value.replace("/", "").isdigit():
        return float(Fraction(value))
    return value


def _written(value: Any) -> str:
    """Write a value: fractions of grey levels as such, counts with commas."""
    if value is None or isinstance(value, bool):
        return {None: "none", False: "no", True: "yes"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        levels = 255 * value
        whole = abs(levels - round(levels)) < 1e-4 and 0 < levels < 255 and len(f"{value:g}") > 5
        return f"{round(levels)}/255" if whole else f"{value:g}"
    return str(value)
