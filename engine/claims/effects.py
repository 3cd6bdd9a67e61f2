"""Effects with every coordinate filled in: what is to be measured, and on which side of which threshold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine.claims.spec import ClaimsFile, ClaimSpec, EffectSpec, Metric, Quantity

UNITS: dict[Quantity, str] = {
    "removed": "%",
    "drop": "points",
    "accuracy": "%",
    "alignment": "",
    "uniformity": "",
    "clean_alignment": "",
    "clean_uniformity": "",
    "separability": "%",
}
OF_POISONS: frozenset[Quantity] = frozenset({"separability"})
"""What a poison has by itself, whatever is trained on it."""

OF_TRAINING: frozenset[Quantity] = frozenset({"alignment", "uniformity", "clean_alignment", "clean_uniformity"})
"""What is measured while a victim trains; no probe has a part in it."""


@dataclass(frozen=True)
class Value:
    """A quantity and where it is measured; without ``downstream`` on the study's own data set."""

    quantity: Quantity
    study: str = ""
    poison: tuple[str, ...] = ()
    victim: tuple[str, ...] = ()
    defense: tuple[str, ...] = ()
    downstream: tuple[str, ...] = ()
    metric: Metric | None = None

    @property
    def lacking(self) -> str | None:
        """Return the first coordinate that the quantity needs and nobody gives."""
        needed = ["study", "poison"]
        if self.quantity not in OF_POISONS:
            needed += ["victim", "defense"] if self.quantity in OF_TRAINING else ["victim", "defense", "metric"]
        return next((name for name in needed if not getattr(self, name)), None)

    def __str__(self) -> str:
        """Write it for people, the study left out."""
        if self.quantity in OF_POISONS:
            return f"{self.quantity} of {_listed(self.poison)}"
        probed = [] if self.quantity in OF_TRAINING else [str(self.metric), *self.downstream]
        beside = f" ({', '.join(probed)})" if probed else ""
        return (
            f"{self.quantity}: {_listed(self.poison)} on {_listed(self.victim)} under {_listed(self.defense)}{beside}"
        )


@dataclass(frozen=True)
class Effect:
    """One inequality: ``sign`` is 1 where the value, or its difference to another, is claimed above the threshold."""

    says: str
    value: Value
    minus: Value | None
    sign: int
    threshold: float

    @property
    def unit(self) -> str:
        """Return the unit of what is measured and of the threshold."""
        unit = UNITS[self.value.quantity]
        return "points" if unit == "%" and self.minus else unit

    @property
    def values(self) -> list[Value]:
        """Return what is to be measured."""
        return [self.value] if self.minus is None else [self.value, self.minus]


def effects_of(spec: ClaimsFile, claim: ClaimSpec) -> list[Effect]:
    """Return every effect of a claim."""
    return [effect for declared in claim.effects for effect in expand(declared, spec, claim)]


def expand(declared: EffectSpec, spec: ClaimsFile, claim: ClaimSpec) -> Iterator[Effect]:
    """Yield the effects that one declaration stands for, in a claim of a file."""
    outside = {**spec.at.given(), **claim.at.given()}
    for names in itertools.product(*declared.each.values()):
        point: dict[str, Any] = {axis: (name,) for axis, name in zip(declared.each, names, strict=True)}
        value = Value(**{**outside, **point, **declared.value.given()})
        minus = replace(value, **declared.minus.given()) if declared.minus else None
        says = f"{declared.says}: {', '.join(names)}" if names else declared.says
        above = declared.above is not None
        threshold = declared.above if declared.above is not None else declared.below
        yield Effect(says, value, minus, 1 if above else -1, float(threshold or 0))


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"mean of {', '.join(names)}"
