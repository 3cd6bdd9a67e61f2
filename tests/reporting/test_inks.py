"""An attack has one colour everywhere; colours are told apart with every colour blindness, and poisons by lines too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.plugins import kinds, module_of
from engine.reporting.inks import COLOURS, PALETTE, REFERENCE_COLOUR, colour_of, inks
from engine.reporting.results import PoisonFacts, Results
from engine.study import PoisonEntry, StudySpec

# Machado, Oliveira & Fernandes 2009, table 1, severity 1, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Ottosson 2020, https://bottosson.github.io/posts/oklab/
TO_CONES = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
TO_CONES += [[0.0883024619, 0.2817188376, 0.6299787005]]
TO_LAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
TO_LAB += [[0.0259040371, 0.7827717662, -0.8086757660]]
TOLD_APART = 0.07  # in OKLab: more than three times a just noticeable difference


def linear(colour: str) -> np.ndarray:
    levels = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def oklab(colour: str, vision: str) -> np.ndarray:
    seen = (np.array(VISIONS[vision]) @ linear(colour)).clip(0, 1)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_CONES) @ seen)


def results_of(**poisons: tuple[str, str]) -> Results:
    study = StudySpec(
        protocol="banked",
        name="many",
        dataset="pets",
        poisons={name: PoisonEntry(attack="any", init="zero") for name in poisons},
        victims=("simclr",),
        defenses=("none",),
        downstream=("pets",),
        seeds=(0,),
    )
    facts = {name: facts_of(name, *kind) for name, kind in poisons.items()}
    return Results(study, facts)


def facts_of(name: str, kind: str, granularity: str) -> PoisonFacts:
    return PoisonFacts(name, "any", "zero", {"kind": kind, "granularity": granularity})


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_from_each_other_and_from_the_reference(vision: str) -> None:
    pairs = [*itertools.combinations((*PALETTE, REFERENCE_COLOUR), 2)]
    assert len(pairs) == 55
    distances = {pair: float(np.linalg.norm(oklab(pair[0], vision) - oklab(pair[1], vision))) for pair in pairs}
    assert {pair: distance for pair, distance in distances.items() if distance < TOLD_APART} == {}


def test_colours_stand_out_from_white_paper() -> None:
    luminances = {colour: float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in PALETTE}
    assert min(1.05 / (luminance + 0.05) for luminance in luminances.values()) >= 2


def test_listed_attacks_exist() -> None:
    assert {kind for kind, _ in COLOURS} <= set(kinds("attacks"))
    for kind, granularity in COLOURS:
        assert granularity in module_of("attacks", kind).Spec.model_fields["granularity"].annotation.__args__


def test_an_attack_has_the_same_colour_in_every_study() -> None:
    alone = inks(results_of(mine=("contrastive_poisoning", "class")))
    among = inks(
        results_of(
            plain=("clean", "class"),
            noise=("random_noise", "sample"),
            theirs=("contrastive_poisoning", "sample"),
            ours=("contrastive_poisoning", "class"),
        )
    )
    assert alone["mine"].colour == among["ours"].colour != among["theirs"].colour
    assert list(among) == ["plain", "noise", "theirs", "ours"]
    assert (among["plain"].colour, among["plain"].is_reference) == (REFERENCE_COLOUR, True)
    assert len({ink.colour for ink in among.values()}) == 4


def test_an_attack_that_is_not_listed_has_a_colour_that_stays() -> None:
    found = {name: colour_of(facts_of("any", name, "sample")) for name in ("brand_new", "also_new", "third")}
    assert set(found.values()) <= set(PALETTE)
    assert found["brand_new"] == colour_of(facts_of("other", "brand_new", "sample"))
    assert len(set(found.values())) > 1


def test_poisons_of_one_colour_differ_in_line_and_marker() -> None:
    found = inks(results_of(**{f"p{index}": ("tue", "sample") for index in range(16)}))
    assert len({ink.colour for ink in found.values()}) == 1
    assert len({tuple(ink.line.items()) for ink in found.values()}) == 16
    assert len({ink.words for ink in found.values()}) == 16
    assert [found[name].words for name in ("p0", "p1", "p4")] == ["", "dashed", "crosses"]
    assert len({found[f"p{index}"].marker for index in range(6)}) == 6  # of the points of figures without lines
    assert "marker" not in found["p3"].line
    assert found["p5"].line["marker"] == found["p5"].marker
