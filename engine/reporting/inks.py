"""How poisons are told apart: an attack has one colour in every study; poisons of one colour differ in their lines."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from engine.reporting.results import PoisonFacts, Results

REFERENCE_COLOUR = "#8A8A8A"
COLOURS = {
    ("contrastive_poisoning", "sample"): "#EE7733",
    ("contrastive_poisoning", "class"): "#0077BB",
    ("random_noise", "sample"): "#6A3D9A",
    ("random_noise", "class"): "#2F2A6B",
    ("adversarial_poisoning", "sample"): "#00604F",
    ("unlearnable_examples", "sample"): "#33BBEE",
    ("unlearnable_examples", "class"): "#EE99AA",
    ("aap", "sample"): "#7B3F00",
    ("aue", "sample"): "#3F90DA",
    ("tue", "sample"): "#B15928",
}
"""The colour of a kind of attack and a granularity: told apart, and from grey, with every common colour blindness.

From the "vibrant" scheme of Paul Tol and other qualitative schemes, chosen for the largest least difference in OKLab.
"""
PALETTE = tuple(COLOURS.values())
DASHES = {"-": "", "--": "dashed", "-.": "dash-dotted", ":": "dotted"}
MARKERS = {"o": "circles", "s": "squares", "^": "triangles", "D": "diamonds", "P": "crosses", "v": "wedges"}


@dataclass(frozen=True)
class Ink:
    """How one poison is drawn, in every figure and on the page; a line has markers where dashes do not suffice."""

    colour: str
    dashes: str = "-"
    marker: str = "o"
    is_marked: bool = False
    is_reference: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """Return how a line is drawn, for matplotlib."""
        look: dict[str, Any] = {"color": self.colour, "linestyle": self.dashes}
        return {**look, "marker": self.marker, "markersize": 4, "markevery": 0.1} if self.is_marked else look

    @property
    def words(self) -> str:
        """Name the dashes and the markers of a line, where there are any."""
        return ", ".join(filter(None, (DASHES[self.dashes], MARKERS[self.marker] if self.is_marked else "")))


def inks(results: Results) -> dict[str, Ink]:
    """Return how every poison is drawn, in the study's order."""
    found, seen = {}, Counter[str]()
    for name, facts in results.poisons.items():
        colour = colour_of(facts)
        place = seen[colour]
        seen[colour] += 1
        dashes, marker = [*DASHES][place % len(DASHES)], [*MARKERS][place % len(MARKERS)]
        found[name] = Ink(colour, dashes, marker, place >= len(DASHES), name == results.reference)
    return found


def colour_of(facts: PoisonFacts) -> str:
    """Return the colour of an attack, whatever the study; a kind that is not listed has one that follows its name."""
    if not facts.is_attack:
        return REFERENCE_COLOUR
    kind = facts.spec["kind"], facts.spec.get("granularity", "")
    return COLOURS.get(kind, PALETTE[zlib.crc32("/".join(kind).encode()) % len(PALETTE)])
