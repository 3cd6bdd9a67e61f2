"""Which claims are declared, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.claims.effects import OF_POISONS, UNITS, Effect, Value, expand
from engine.claims.spec import AXES, ClaimsFile
from engine.specfiles import ROOT, Document, Fault, KeyPath, SpecFault, parse, read_document, suggest
from engine.study import StudySpec

GROUP = "claims"
KEYS = ("value", "minus")
"""What an effect measures, in its order."""

Studies = Mapping[str, StudySpec | None]
"""Every study by its name; None where its own file is wrong."""


def load_claims() -> list[ClaimsFile]:
    """Return all declared claims; the names of studies and of what is in them are not looked up.

    Raises:
        SpecFault: there are none, or a file is wrong; every fault is listed.
    """
    checked = check_claims()
    if not checked:
        raise SpecFault([Fault(ROOT / GROUP, 1, 1, "", "no claim is declared; run in the project's root")])
    faults = [fault for _, document in checked for fault in document.faults]
    if faults:
        raise SpecFault(faults)
    return [spec for spec, _ in checked if spec is not None]


def check_claims() -> list[tuple[ClaimsFile | None, Document]]:
    """Parse every file of claims and check that each effect can be measured; every fault is in its document."""
    checked, taken = [], dict[str, Path]()
    for file in sorted((ROOT / GROUP).glob("*.yaml")):
        document = read_document(file)
        spec: ClaimsFile | None = parse(document, ClaimsFile)
        if spec is not None:
            document.faults.extend(_faults(spec, document, taken))
        checked.append((spec, document))
    return checked


def name_faults(spec: ClaimsFile, document: Document, studies: Studies) -> Iterator[Fault]:
    """Yield every name of a file's effects that the study has not, where it is given."""
    for path, effect in _placed(spec):
        for key, value in zip(KEYS, effect.values, strict=False):
            if value.study not in studies:
                message = f"there is no study {value.study!r}{suggest(value.study, tuple(studies))}"
                yield document.fault(_given_at(document, path, key, "study"), message)
            elif study := studies[value.study]:
                for axis, message in _unknown(value, study):
                    yield document.fault(_given_at(document, path, key, axis), message)


def _placed(spec: ClaimsFile) -> Iterator[tuple[KeyPath, Effect]]:
    """Yield every effect with the place of its declaration."""
    for place, claim in enumerate(spec.claims):
        for index, declared in enumerate(claim.effects):
            for effect in expand(declared, spec, claim):
                yield ("claims", place, "effects", index), effect


def _given_at(document: Document, effect: KeyPath, key: str, axis: str) -> KeyPath:
    """Return where a coordinate of an effect's value is given: the innermost place that the file has."""
    inner = [(*effect, name) for name in (KEYS[1::-1] if key == KEYS[1] else KEYS[:1])]
    places = [*inner, (*effect, "each"), (*effect[:2], "at"), ("at",)]
    return next(((*place, axis) for place in places if (*place, axis) in document.positions), (*effect, key))


def _unknown(value: Value, study: StudySpec) -> Iterator[tuple[str, str]]:
    """Yield the axes on which a study has not what a value names, and a message for every name."""
    known = {
        "poison": tuple(study.poisons),
        "victim": study.victims,
        "defense": study.defenses,
        "downstream": study.downstream,
    }
    for axis in AXES[:1] if value.quantity in OF_POISONS else AXES:
        for name in getattr(value, axis):
            if name not in known[axis]:
                yield axis, f"study {value.study} has no {axis} {name!r}{suggest(name, known[axis])}"


def _faults(spec: ClaimsFile, document: Document, taken: dict[str, Path]) -> Iterator[Fault]:
    """Yield what is wrong with a file by itself; ``taken`` says which ids are given, and where."""
    for place, claim in enumerate(spec.claims):
        if claim.id in taken:
            yield document.fault(("claims", place, "id"), f"{claim.id!r} is given twice; first in {taken[claim.id]}")
        taken.setdefault(claim.id, document.file)
    for path, effect in _placed(spec):
        for key, value in zip(KEYS, effect.values, strict=False):
            if value.lacking:
                yield document.fault((*path, key), f"{value.quantity} needs a {value.lacking}, here or further out")
            elif value.quantity in OF_POISONS and (len(value.poison) > 1 or effect.minus):
                yield document.fault((*path, key), f"{value.quantity} is of one poison by itself: name one, minus none")
        if effect.minus and UNITS[effect.minus.quantity] != UNITS[effect.value.quantity]:
            units = " and ".join(UNITS[value.quantity] or "no unit" for value in effect.values)
            yield document.fault((*path, "minus", "quantity"), f"is of another unit than the value: {units}")
