"""What perturbations are like: how visible, how separable, at which frequencies, and how they lie beside each other.

Shapes: n images of one poison; R distances in the frequency plane.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from engine.reporting.inks import REFERENCE_COLOUR, Ink, inks
from engine.reporting.readings import MeasuredPerturbation
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sheet import EDGE, MUTED, WIDTH, Panel, Sheet, draw_sheet
from engine.reporting.wording import number

# Paul Tol's "muted" scheme and its grey, https://personal.sron.nl/~pault/: poisons have other colours.
CLASSES = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499")
BLACK, OTHERS = "#000000", "#DDDDDD"
OTHER_CLASSES = "all classes but the first nine"
ALONE = 6.5  # inches of a single panel
LETTERS = 60  # of all classes in a legend


@dataclass(frozen=True)
class Perturbation:
    """What one poison adds to images.

    Shapes: labels [n]; points [n or fewer, 2], None where there are too few; spectrum [R].
    ``record`` holds its numbers, a row of a table.
    """

    poison: str
    labels: np.ndarray
    points: np.ndarray | None
    spectrum: np.ndarray
    record: dict[str, Any]


@dataclass(frozen=True)
class Perturbations:
    """The perturbations of a study in its order, and the spectrum of the clean images of the first."""

    shown: tuple[Perturbation, ...]
    clean_spectrum: np.ndarray
    class_colours: tuple[tuple[str, str], ...]

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return a row for every poison: how visible it is, and how separable."""
        return [each.record for each in self.shown]


def perturbations_of(results: Results) -> Perturbations | None:
    """Return what was measured of every poison that perturbs images; None where there is none."""
    attacks = [facts for facts in results.poisons.values() if facts.is_attack and facts.manifest]
    there = [(facts, results.perturbations[facts.name]) for facts in attacks if facts.name in results.perturbations]
    there = [(facts, measured) for facts, measured in there if measured.images]
    if not there:
        return None
    names, spectrum = (there[0][0].manifest or {})["class_names"], there[0][1].clean_spectrum
    return Perturbations(
        tuple(_perturbation(facts, measured) for facts, measured in there), np.array(spectrum), class_colours(names)
    )


def _perturbation(facts: PoisonFacts, measured: MeasuredPerturbation) -> Perturbation:
    record = {
        "poison": facts.name,
        **measured.model_dump(include={"images", "psnr", "ssim"}),
        "linf_levels": (facts.manifest or {})["max_difference_levels"],
        **measured.model_dump(include={"l2", "separability"}),
        # One half of every class is judged, the smaller one where they differ.
        "judged": sum(count // 2 for count in Counter(measured.labels).values()),
        "chance": measured.chance,
    }
    points = None if measured.points is None else np.array(measured.points)
    return Perturbation(facts.name, np.array(measured.labels), points, np.array(measured.spectrum), record)


def class_colours(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the names and colours of a legend: of up to ten classes, or of nine and all others."""
    if len(names) > len(CLASSES) + 1:
        return (*zip(names, CLASSES, strict=False), (OTHER_CLASSES, OTHERS))
    return tuple(zip(names, (*CLASSES, BLACK), strict=False))


def draw_embeddings(found: Perturbations) -> Sheet | None:
    """Draw the perturbations of every poison as points, coloured by class; None where none can be placed.

    Source: He, Zha & Katabi 2023, figure 5.
    """
    panels = []
    for each in found.shown:
        if each.points is None:
            continue

        def draw(axes: Axes, each: Perturbation = each) -> Sequence[Artist]:
            return _draw_points(axes, each, found.class_colours)

        value, chance = each.record["separability"], number(each.record["chance"], 2)
        judged = "" if value is None else f": linear accuracy {number(value, 2)} (chance {chance})"
        panels.append(Panel(f"{each.poison}{judged}", draw, WIDTH, left=EDGE))
    title = "Perturbations as points (t-SNE), and their linear separability"
    # Alone, a panel is wide enough for the legend and the title.
    return draw_sheet(panels, title=title, width=ALONE if len(panels) == 1 else WIDTH) if panels else None


def _draw_points(axes: Axes, shown: Perturbation, colours: Sequence[tuple[str, str]]) -> list[Artist]:
    points = shown.points if shown.points is not None else np.empty((0, 2))
    last = len(colours) - 1
    # All at once and in their random order: no class lies on top of another.
    paint = [colours[min(label, last)][1] for label in shown.labels[: len(points)]]
    axes.scatter(points[:, 0], points[:, 1], s=9, c=paint, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.04)
    return _legend(colours)


def _legend(colours: Sequence[tuple[str, str]]) -> list[Artist]:
    """Return a dot for every class, long names cut; of more classes than colours, only what stands for the others."""
    shown = [line for line in colours if line[0] == OTHER_CLASSES] or colours
    longest = LETTERS if sum(len(name) for name, _ in shown) <= LETTERS else LETTERS // len(shown)
    dot: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linestyle": ""}
    return [Line2D([], [], color=colour, label=_cut(name, longest), **dot) for name, colour in shown]


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def draw_spectra(results: Results, found: Perturbations) -> Sheet:
    """Draw at which frequencies perturbations have their power, beside clean images."""
    ink = inks(results)

    def draw(axes: Axes) -> Sequence[Artist]:
        return _draw_spectra(axes, found, ink)

    panel = Panel("mean power of a frequency, over images, channels and directions", draw, 3.6)
    return draw_sheet([panel], title="Spectra of perturbations", columns=1, width=ALONE)


def _draw_spectra(axes: Axes, found: Perturbations, ink: dict[str, Ink]) -> list[Artist]:
    reference: dict[str, Any] = {"color": REFERENCE_COLOUR, "linewidth": 3.6, "alpha": 0.55, "label": "clean images"}
    lines = [(found.clean_spectrum, reference)]
    for each in found.shown:
        lines.append((each.spectrum, {**ink[each.poison].line, "label": each.poison}))
    axes.set_xscale("log")
    axes.set_yscale("log")
    longest = max((len(power) for power, _ in lines), default=0)
    octaves = [2**exponent for exponent in range(longest.bit_length())]
    axes.set_xticks(octaves, [str(octave) for octave in octaves])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("cycles per image")
    axes.set_ylabel("power (grey levels²)")
    axes.tick_params(which="minor", color=MUTED)
    # Entry 0 is of the mean, which is no frequency; zero power has no place on the axis.
    drawn = (
        axes.plot(np.arange(1, len(power)), np.where(power > 0, power, np.nan)[1:], **look) for power, look in lines
    )
    return [*itertools.chain.from_iterable(drawn)]
