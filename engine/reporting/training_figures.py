"""What training did to embeddings: loss, alignment and uniformity over epochs, and how far apart two views are.

The counterparts of figures 4 and 7 (curves), and 4d and 8 (distances), of He, Zha & Katabi 2023.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from engine.reporting.figures import spread_of
from engine.reporting.inks import REFERENCE_COLOUR, Ink, inks
from engine.reporting.readings import Curve, ViewDistances
from engine.reporting.results import Results
from engine.reporting.sheet import MUTED, TEXT, Panel, Sheet, draw_sheet, room_for

ROW = 0.62  # inches of a row of histograms
APART = 1.1  # the distance of two rows, in heights of the highest bar with its deviation
SHORT_DASHES = (0.0, (2.2, 1.6))  # unlike the dashes that tell many poisons apart
SHOWN = {
    "loss": "training loss",
    "alignment": "alignment (0: views agree)",
    "uniformity": "uniformity (0: all agree)",
}


def draw_training(results: Results) -> Sheet:
    """Draw for every victim and defense the loss of every poison, and where measured, alignment and uniformity.

    Alignment and uniformity are of the released images, and dashed of the clean originals in the same network.
    """
    ink = inks(results)
    curves = results.curves.values()
    shown = {name: label for name, label in SHOWN.items() if name == "loss" or any(c.measured(name) for c in curves)}
    panels = []
    for learner, runs in _by_learner(results):
        for name, label in shown.items():

            def draw(axes: Axes, runs: dict[str, list[Curve]] = runs, name: str = name) -> Sequence[Artist]:
                return _draw_curves(axes, runs, name, ink)

            panels.append(Panel(f"{learner}: {label}", draw, 2.6))
    return draw_sheet(panels, title="Training: released images, and their clean originals in the same network")


def _by_learner(results: Results) -> Iterator[tuple[str, dict[str, list[Curve]]]]:
    """Yield every victim and defense, and the curves of each poison that it met."""
    study = results.study
    for victim, defense in itertools.product(study.victims, study.defenses):
        runs: dict[str, list[Curve]] = {}
        for cell, curve in results.curves.items():
            if (cell.victim, cell.defense) == (victim, defense):
                runs.setdefault(cell.poison, []).append(curve)
        yield _learner(victim, defense, results), runs


def _learner(victim: str, defense: str, results: Results) -> str:
    return f"{victim} · {defense}" if len(results.study.defenses) > 1 else victim


def _draw_curves(axes: Axes, runs: dict[str, list[Curve]], name: str, ink: dict[str, Ink]) -> list[Artist]:
    handles: list[Artist] = []
    for poison, curves in runs.items():
        style = ink[poison]
        # A wide reference line still shows under a poison that does nothing.
        width, alpha = (3.6, 0.55) if style.is_reference else (1.6, 1.0)
        looks = {**style.line, "linewidth": width, "alpha": alpha}
        handles += _draw_mean(axes, curves, name, {**looks, "label": poison})
        if not style.is_reference:  # whose images are their own originals
            _draw_mean(axes, curves, f"clean_{name}", {**looks, "linestyle": SHORT_DASHES, "linewidth": 1.1})
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured yet", transform=axes.transAxes, ha="center", color=MUTED)
    axes.set_xlabel("epoch")
    axes.locator_params(nbins=5)
    axes.margins(x=0.01)
    kinds: dict[str, Any] = {"released images": "-", "their clean originals": SHORT_DASHES}
    styles = [Line2D([], [], color=TEXT, linewidth=1.2, linestyle=dashes, label=kind) for kind, dashes in kinds.items()]
    return [*handles, *styles] if handles else []


def _draw_mean(axes: Axes, curves: Sequence[Curve], name: str, looks: dict[str, Any]) -> list[Line2D]:
    """Draw the mean of a column over the runs that have it, and a band of a standard deviation around it."""
    found = curves if name == "loss" else [kept for curve in curves if (kept := curve.measured(name))]
    if not found:
        return []
    epochs, means, sds = spread_of(found)
    if len(found) > 1:
        axes.fill_between(epochs, means - sds, means + sds, color=looks["color"], alpha=0.15, linewidth=0)
    return axes.plot(epochs, means, **looks)


def draw_view_distances(results: Results) -> Sheet | None:
    """Draw for every victim and defense how far apart two views' features are; None before any is measured.

    A row a poison: what they are compared by is the shape, within one learner.
    """
    study, ink = results.study, inks(results)
    found: dict[tuple[str, str], dict[str, list[ViewDistances]]] = {}
    for (cell, _), accuracy in results.accuracies.items():
        if accuracy.view_distances is not None:
            runs = found.setdefault((cell.victim, cell.defense), {})
            runs.setdefault(cell.poison, []).append(accuracy.view_distances)
    if not found:
        return None
    panels = []
    for victim, defense in itertools.product(study.victims, study.defenses):
        rows = [(poison, found.get((victim, defense), {}).get(poison, [])) for poison in study.poisons]

        def draw(axes: Axes, rows: Sequence[tuple[str, list[ViewDistances]]] = rows) -> Sequence[Artist]:
            return _draw_histograms(axes, rows, ink)

        height = 1.0 + ROW * len(rows)
        panels.append(Panel(_learner(victim, defense, results), draw, height, left=room_for(study.poisons)))
    return draw_sheet(panels, title="Distance of two views: released images, and their clean originals")


def _draw_histograms(axes: Axes, rows: Sequence[tuple[str, list[ViewDistances]]], ink: dict[str, Ink]) -> list[Artist]:
    """Draw a histogram above the other, all on one scale."""
    found = [
        (shares([run.released for run in runs]), shares([run.clean for run in runs if run.clean])) for _, runs in rows
    ]
    highest = max((float((mean + sd).max()) for row in found for mean, sd in row if len(mean)), default=1.0)
    step, farthest = APART * highest, 1.0
    for place, ((poison, runs), (released, clean)) in enumerate(zip(rows, found, strict=True)):
        base = -place * step
        if not runs:
            axes.text(0.02, base + 0.1 * step, "not measured yet", color=MUTED, fontsize=8)
            continue
        edges = np.array(runs[0].edges)
        for (mean, sd), colour, filled in ((released, ink[poison].colour, True), (clean, TEXT, False)):
            if len(mean):
                _draw_histogram(axes, (edges, base + mean, sd), base, {"color": colour, "fill": filled})
                farthest = max(farthest, edges[1:][mean > 0][-1])
    axes.set_xlim(0, min(2.0, farthest))
    axes.set_ylim(-(len(rows) - 1) * step, step)
    axes.set_yticks([-place * step for place in range(len(rows))], [poison for poison, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"cosine distance of two views (a row: {step:.0f} % of images)")
    return [
        Patch(facecolor=REFERENCE_COLOUR, alpha=0.55, label="released images (in the poison's colour)"),
        Line2D([], [], color=TEXT, linewidth=1.1, label="their clean originals"),
    ]


def _draw_histogram(
    axes: Axes, shown: tuple[np.ndarray, np.ndarray, np.ndarray], base: float, look: dict[str, Any]
) -> None:
    edges, top, sd = shown
    axes.stairs(top, edges, baseline=base, alpha=0.55 if look["fill"] else 1.0, linewidth=1.1, **look)
    if sd.any():
        low, high = (np.append(side, side[-1]) for side in ((top - sd).clip(base), top + sd))
        axes.fill_between(edges, low, high, step="post", color=look["color"], alpha=0.25, linewidth=0)


def shares(counts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the sample standard deviation of histograms, both [bins] in percent; 0 for one alone."""
    if not counts:
        return np.empty(0), np.empty(0)
    percent = np.array([100 * np.array(each) / sum(each) for each in counts])
    return percent.mean(axis=0), percent.std(axis=0, ddof=1) if len(counts) > 1 else np.zeros(percent.shape[1])
