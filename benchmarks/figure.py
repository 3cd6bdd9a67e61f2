"""The picture of a full run: how many views a second, and what steps cost over their bare networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.themes import noise, steps, views

STYLE = Path(__file__).parents[1] / "engine" / "reporting" / "templates" / "figures.mplstyle"
OURS, THEIRS = "#4477AA", "#B0B0B0"
BAR = 0.38  # of the distance between two rows
Bars = Sequence[tuple[str, float]]


def draw(run: dict[str, Any], file: Path) -> None:
    """Draw one run, of one number of threads, to a PNG file."""
    tables, threads = run["tables"], run["threads"]
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        (forward, backward), (tiny, large) = figure.subplots(2, 2)
        figure.suptitle(f"32 x 32 pixels, {threads} thread{'s' * (threads > 1)}", x=0.01, ha="left")
        _draw(forward, view_bars(tables[views.TITLE], "forward"), "Views", "images a second")
        both = view_bars(tables[views.TITLE], "forward and backward")
        _draw(backward, both, "Views and their gradient", "images a second")
        for axes, network, name in ((tiny, "tiny", "the tiny network"), (large, "resnet18", "ResNet-18")):
            _draw(axes, step_bars(tables, network), f"Steps of {name}", "times its bare network", line=1.0)
        figure.savefig(file)


def view_bars(rows: Sequence[dict[str, Any]], what: str) -> Bars:
    """Return the rates at 32 x 32 pixels: the engine's once for each kind of images it is given."""
    bars: dict[str, float] = {}
    for row in rows:
        rate = row[f"{what}, theirs"]
        if row["size"] != 32 or rate is None:
            continue
        is_u8 = row["rival"] in (views.PILLOW, views.TORCHVISION_U8)
        bars.setdefault(views.EIGHT_BITS if is_u8 else views.FLOATS, row[f"{what}, ours"])
        bars[row["rival"]] = rate
    return sorted(bars.items(), key=lambda bar: not bar[0].startswith("engine"))


def step_bars(tables: dict[str, Any], network: str) -> Bars:
    """Return what each step takes, in times of its bare network."""
    names = {steps.STEP: "engine, full step", steps.LIGHTLY: steps.LIGHTLY}
    names |= {steps.LIGHTLY_CONTIGUOUS: "lightly, contiguous", noise.STEP: "engine, noise step"}
    rows = [*tables[steps.TITLE], *tables[noise.TITLE]]
    return [
        (names[row["step"]], row["over the bare network"])
        for row in rows
        if row["network"] == network and row["step"] in names
    ]


def _draw(axes: Axes, bars: Bars, title: str, unit: str, line: float | None = None) -> None:
    names, values = zip(*bars, strict=True)
    colours = [OURS if name.startswith("engine") else THEIRS for name in names]
    drawn = axes.barh(range(len(bars)), values, height=2 * BAR, color=colours)
    axes.bar_label(drawn, [f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in values], padding=3)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_title(title, pad=8)
    axes.set_xlabel(unit)
    if line is not None:
        axes.axvline(line, color="#57606a", linewidth=0.8)
