"""What the figures of a report show: accuracies as bars, losses as curves.

The same poison has the same colour everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from engine.reporting.inks import Ink, inks
from engine.reporting.readings import Curve
from engine.reporting.results import Results
from engine.reporting.sheet import MUTED, SURFACE, TEXT, Panel, Sheet, draw_sheet, room_for
from engine.reporting.tables import Summary, by_setting, probes_of
from engine.reporting.wording import mean_and_sd

BARS = 0.76  # of the distance between two poisons


class Look(NamedTuple):
    """How one way of judging is drawn: the fill of its bars, the dashes of its untrained network's line."""

    label: str
    hatch: str
    dashes: Literal["--", ":", "-."]


LOOKS = {
    "linear": Look("linear", "", "--"),
    "knn": Look("kNN", "////", ":"),
    "head": Look("own classifier", "....", "-."),
}


def draw_accuracy(results: Results, summaries: Sequence[Summary]) -> Sheet:
    """Draw bars for every victim, defense and downstream set."""
    study, ink = results.study, inks(results)
    panels = []
    for setting, (*bars, floor) in by_setting(summaries).items():
        parts = [setting.victim]
        parts += [f"defense {setting.defense}"] if len(study.defenses) > 1 else []
        parts += [f"probed on {setting.downstream}"] if len(study.downstream) > 1 else []

        def draw(axes: Axes, bars: list[Summary] = bars, floor: Summary = floor) -> Sequence[Artist]:
            return _draw_bars(axes, bars, floor, ink)

        height = 0.95 + 0.24 * len(_judged(bars)) * len(bars)
        panels.append(Panel(" · ".join(parts), draw, height, left=room_for(study.poisons)))
    return draw_sheet(panels, title="Accuracy: a shorter bar, a stronger poison")


def _judged(bars: Sequence[Summary]) -> tuple[str, ...]:
    return probes_of(itertools.chain.from_iterable(summary.rows for summary in bars))


def _draw_bars(axes: Axes, bars: list[Summary], floor: Summary, ink: dict[str, Ink]) -> list[Artist]:
    probes = _judged(bars)
    height = BARS / len(probes)
    for place, summary in enumerate(bars):
        for step, probe in enumerate(probes):
            y = place + (step - (len(probes) - 1) / 2) * height
            _draw_bar(axes, (y, height), summary, probe, ink[summary.poison].colour)
    untrained: dict[str, Any] = {"color": TEXT, "linewidth": 1.1}
    for probe in probes:
        if found := floor.spreads[probe]:
            axes.axvline(found.mean, linestyle=LOOKS[probe].dashes, zorder=3, **untrained)
    axes.set_yticks(range(len(bars)), [summary.poison for summary in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 116 if len(floor.rows) > 1 else 109)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("accuracy on clean test images (%)")
    seed = Line2D([], [], color=TEXT, marker="o", markersize=3.2, linestyle="", label="one seed")
    looks = [LOOKS[probe] for probe in probes]
    return [
        *(Patch(edgecolor=MUTED, label=look.label, **_fill(look, MUTED)) for look in looks),
        *(Line2D([], [], linestyle=look.dashes, label=f"untrained, {look.label}", **untrained) for look in looks),
        *([seed] if len(floor.rows) > 1 else []),
    ]


def _fill(look: Look, colour: str) -> dict[str, Any]:
    return {"facecolor": SURFACE, "hatch": look.hatch} if look.hatch else {"facecolor": colour}


def _draw_bar(axes: Axes, place: tuple[float, float], summary: Summary, probe: str, colour: str) -> None:
    found, (y, height) = summary.spreads[probe], place
    if found is None:
        axes.text(1, y, "missing", va="center", color=MUTED, style="italic", fontsize=8)
        return
    axes.barh(y, found.mean, height=height * 0.92, edgecolor=colour, linewidth=0.9, **_fill(LOOKS[probe], colour))
    values = [value for row in summary.rows if (value := getattr(row, probe)) is not None]
    if len(values) > 1:
        edge: dict[str, Any] = {"markeredgecolor": SURFACE, "markeredgewidth": 0.6}
        axes.plot(values, [y] * len(values), "o", markersize=3.2, color=TEXT, zorder=4, **edge)
    paper = {"facecolor": SURFACE, "edgecolor": "none", "pad": 0.4, "alpha": 0.85}
    axes.text(max(values) + 1.4, y, mean_and_sd(found), va="center", fontsize=8, zorder=5, bbox=paper)


def spread_of(runs: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every epoch, and over the runs that reached it the loss's mean and sample standard deviation."""
    epochs = np.unique(np.concatenate([run.epochs for run in runs]))
    losses = np.full((len(runs), len(epochs)), np.nan)
    for row, run in zip(losses, runs, strict=True):
        row[np.searchsorted(epochs, run.epochs)] = run.losses
    counts = np.isfinite(losses).sum(axis=0)
    means = np.nansum(losses, axis=0) / counts
    squares = np.nansum((losses - means) ** 2, axis=0)
    return epochs, means, np.sqrt(squares / np.maximum(counts - 1, 1))
