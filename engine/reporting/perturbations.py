"""What perturbations are like: how visible, how separable, at which frequencies, and how they lie beside each other.

Shapes: n images of one poison, evenly from its classes; R distances in the frequency plane.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from engine.randomness import stream
from engine.reporting.inks import REFERENCE_COLOUR, Ink, inks
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sheet import EDGE, MUTED, WIDTH, Panel, Sheet, draw_sheet
from engine.reporting.specimens import choose, clean_images_at, noise_at, read_images_at
from engine.reporting.wording import number
from engine.study import poison_path

if TYPE_CHECKING:
    from torch import Tensor

POINTS = 500
"""Images of a poison that t-SNE places: its time grows faster than their number."""
# Paul Tol's "muted" scheme and its grey, https://personal.sron.nl/~pault/: poisons have other colours.
CLASSES = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499")
BLACK, OTHERS = "#000000", "#DDDDDD"
OTHER_CLASSES = "all classes but the first nine"
ALONE = 6.5  # inches of a single panel
LETTERS = 60  # of all classes in a legend


@dataclass(frozen=True)
class Perturbation:
    """What one poison adds to images.

    Shapes: labels int64 [n]; points float32 [min(n, POINTS), 2], None where there are too few; spectrum [R].
    ``record`` holds its numbers, a row of a table.
    """

    poison: str
    labels: np.ndarray
    points: np.ndarray | None
    spectrum: np.ndarray
    record: dict[str, Any]


@dataclass(frozen=True)
class Perturbations:
    """The perturbations of a study in its order, and the clean images' spectrum where there is a reference."""

    shown: tuple[Perturbation, ...]
    clean_spectrum: np.ndarray | None
    class_colours: tuple[tuple[str, str], ...]

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return a row for every poison: how visible it is, and how separable."""
        return [each.record for each in self.shown]


def measure_perturbations(results: Results) -> Perturbations | None:
    """Look at every poison that is there and perturbs images; None where there is none.

    What is added is looked at before it is clipped to the range of pixels; what it does to images is measured on the
    released ones, against the study's clean poison of the same data set: without one, those numbers are None.
    """
    attacks = [f for f in results.poisons.values() if f.is_attack and f.manifest and f.manifest["perturbed"]]
    if not attacks:
        return None
    found, spectra = [], []
    for facts in attacks:
        perturbation, clean_spectrum = _measure(results, facts)
        found.append(perturbation)
        spectra += [] if clean_spectrum is None else [clean_spectrum]
    names = (attacks[0].manifest or {})["class_names"]
    return Perturbations(tuple(found), spectra[0] if spectra else None, class_colours(names))


def class_colours(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the names and colours of a legend: of up to ten classes, or of nine and all others."""
    if len(names) > len(CLASSES) + 1:
        return (*zip(names, CLASSES, strict=False), (OTHER_CLASSES, OTHERS))
    return tuple(zip(names, (*CLASSES, BLACK), strict=False))


def _measure(results: Results, facts: PoisonFacts) -> tuple[Perturbation, np.ndarray | None]:
    """Return what a poison adds, and the clean spectrum of the images that it was looked at on."""
    from engine.analysis import embed_tsne, linear_separability, radial_spectrum

    folder = poison_path(results.study.dataset, facts.name)
    labels, rows, places = choose(folder)
    levels = noise_at(folder, facts, labels, places).float()
    separability = linear_separability(levels, labels, generator=stream(0, "report", "halves"))
    points = embed_tsne(levels[:POINTS])
    clean = clean_images_at(results, facts, places)
    record = {
        "poison": facts.name,
        "images": len(labels),
        "psnr": None,
        "ssim": None,
        "linf_levels": (facts.manifest or {})["max_difference_levels"],
        "l2": None,
        "separability": None if separability is None else round(separability, 4),
        "chance": round(float(labels.bincount().max() / len(labels)), 4),
    }
    if clean is not None:
        record |= _visibility(clean.float() / 255, read_images_at(folder, rows).float() / 255)
    spectrum = radial_spectrum(levels).numpy()
    perturbation = Perturbation(
        facts.name, labels.numpy(), None if points is None else points.numpy(), spectrum, record
    )
    return perturbation, None if clean is None else radial_spectrum(clean.float()).numpy()


def _visibility(clean: Tensor, released: Tensor) -> dict[str, float | None]:
    """Return the mean PSNR (of the images that differ), SSIM and Euclidean difference.

    Units: images and differences in [0, 1] pixel range, PSNR in decibels.
    """
    from engine.analysis import psnr, ssim

    ratios = psnr(clean, released)
    ratios = ratios[ratios.isfinite()]
    return {
        "psnr": round(ratios.mean().item(), 4) if len(ratios) else None,
        "ssim": round(ssim(clean, released).mean().item(), 4),
        "l2": round((released - clean).flatten(1).norm(dim=1).double().mean().item(), 4),
    }


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
    lines = [(found.clean_spectrum, reference)] if found.clean_spectrum is not None else []
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
