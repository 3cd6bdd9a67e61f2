"""What the figures of a report show: accuracies as bars, losses as curves.

The same poison has the same colour everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from engine.reporting.results import Results
from engine.reporting.sheet import Panel, Theme, room_for
from engine.reporting.tables import PROBES, Summary, by_setting
from engine.reporting.wording import number
from engine.study import StudySpec

# Paul Tol's "bright" scheme, https://personal.sron.nl/~pault/: told apart with every common colour blindness.
PALETTE = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
REFERENCE_COLOUR = "#8A8A8A"
DASHES = ("-", "--", "-.", ":")
BAR = 0.38  # of the distance between two poisons

Curves = dict[str, list[dict[int, float]]]
"""The loss of every epoch, a run an entry, for every poison."""


@dataclass(frozen=True)
class Ink:
    """How one poison is drawn, in every figure and on the page."""

    colour: str
    dashes: str = "-"
    is_reference: bool = False


def inks(study: StudySpec, reference: str | None) -> dict[str, Ink]:
    """Give every poison its colour, in the study's order; beyond six, dashes tell them apart."""
    styles = ((colour, dashes) for dashes, colour in itertools.product(DASHES, PALETTE))
    others = (name for name in study.poisons if name != reference)
    found = {name: Ink(*style) for name, style in zip(others, itertools.cycle(styles), strict=False)}
    return {name: found.get(name, Ink(REFERENCE_COLOUR, is_reference=True)) for name in study.poisons}


def accuracy_panels(results: Results, summaries: Sequence[Summary]) -> list[Panel]:
    """Return a panel of bars for every victim, defense and downstream set."""
    study, ink = results.study, inks(results.study, results.reference)
    panels = []
    for setting, (*bars, floor) in by_setting(summaries).items():
        parts = [setting.victim]
        parts += [f"defense {setting.defense}"] if len(study.defenses) > 1 else []
        parts += [f"probed on {setting.downstream}"] if len(study.downstream) > 1 else []

        def draw(axes: Axes, theme: Theme, bars: list[Summary] = bars, floor: Summary = floor) -> Sequence[Artist]:
            return _draw_bars(axes, theme, bars, floor, ink)

        panels.append(Panel(" · ".join(parts), draw, 0.95 + 0.48 * len(bars), left=room_for(study.poisons)))
    return panels


def _draw_bars(axes: Axes, theme: Theme, bars: list[Summary], floor: Summary, ink: dict[str, Ink]) -> list[Artist]:
    for place, summary in enumerate(bars):
        colour = ink[summary.poison].colour
        for side, probe in ((-1, "linear"), (1, "knn")):
            _draw_bar(axes, theme, place + side * BAR / 2, summary, probe, colour)
    for probe, dashes in zip(PROBES, ("--", ":"), strict=True):
        if found := floor.spreads[probe]:
            axes.axvline(found.mean, color=theme.text, linestyle=dashes, linewidth=1.1, zorder=3)
    axes.set_yticks(range(len(bars)), [summary.poison for summary in bars])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 109)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("accuracy on clean test images (%)")
    return [
        Patch(facecolor=theme.muted, edgecolor=theme.muted, label="linear"),
        Patch(facecolor=theme.surface, edgecolor=theme.muted, hatch="////", label="kNN"),
        Line2D([], [], color=theme.text, linestyle="--", linewidth=1.1, label="untrained, linear"),
        Line2D([], [], color=theme.text, linestyle=":", linewidth=1.1, label="untrained, kNN"),
    ]


def _draw_bar(axes: Axes, theme: Theme, y: float, summary: Summary, probe: str, colour: str) -> None:
    found = summary.spreads[probe]
    if found is None:
        axes.text(1, y, "missing", va="center", color=theme.muted, style="italic", fontsize=8)
        return
    style: dict[str, Any] = (
        {"facecolor": colour} if probe == "linear" else {"facecolor": theme.surface, "hatch": "////"}
    )
    axes.barh(y, found.mean, height=BAR * 0.92, edgecolor=colour, linewidth=0.9, **style)
    values = [value for row in summary.rows if (value := getattr(row, probe)) is not None]
    if len(values) > 1:
        axes.plot(values, [y] * len(values), "o", markersize=3.2, color=theme.text, markeredgecolor=theme.surface,
                  markeredgewidth=0.6, zorder=4)  # fmt: skip
    axes.text(max(values) + 1.2, y, number(found.mean), va="center", fontsize=8, color=theme.text, zorder=5)


def loss_panels(results: Results) -> list[Panel]:
    """Return a panel of training curves for every victim and defense."""
    study, ink = results.study, inks(results.study, results.reference)
    panels = []
    for victim, defense in itertools.product(study.victims, study.defenses):
        curves: Curves = {}
        for cell, losses in results.losses.items():
            if (cell.victim, cell.defense) == (victim, defense):
                curves.setdefault(cell.poison, []).append(losses)

        def draw(axes: Axes, theme: Theme, curves: Curves = curves) -> Sequence[Artist]:
            return _draw_curves(axes, theme, curves, ink)

        title = f"{victim} · defense {defense}" if len(study.defenses) > 1 else victim
        panels.append(Panel(title, draw, 2.6))
    return panels


def _draw_curves(axes: Axes, theme: Theme, curves: Curves, ink: dict[str, Ink]) -> list[Artist]:
    lines: list[Artist] = []
    for poison, runs in curves.items():
        epochs = sorted(set().union(*runs))
        values = np.array([[run.get(epoch, np.nan) for run in runs] for epoch in epochs])
        counts = np.isfinite(values).sum(axis=1)
        means = np.nansum(values, axis=1) / counts
        style = ink[poison]
        wide = (
            {"linewidth": 3.6, "alpha": 0.55} if style.is_reference else {}
        )  # it shows under a poison that does nothing
        lines += axes.plot(epochs, means, color=style.colour, linestyle=style.dashes, label=poison, **wide)
        if len(runs) > 1:
            squares = np.nansum((values - means[:, None]) ** 2, axis=1)
            sds = np.sqrt(squares / np.maximum(counts - 1, 1))
            axes.fill_between(epochs, means - sds, means + sds, color=style.colour, alpha=0.2, linewidth=0)
    if not curves:
        axes.text(0.5, 0.5, "no training curve yet", transform=axes.transAxes, ha="center", color=theme.muted)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss (mean of epoch)")
    axes.margins(x=0.01)
    return lines
