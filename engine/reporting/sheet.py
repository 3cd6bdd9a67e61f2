"""Sheets of panels: drawn on Agg in one style, without global state, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "templates" / "figures.mplstyle"
WIDTH = 4.5  # inches of one panel

THEMED: dict[Any, str] = {
    "figure.facecolor": "surface",
    "axes.facecolor": "surface",
    "text.color": "text",
    "axes.titlecolor": "text",
    "axes.labelcolor": "muted",
    "axes.edgecolor": "muted",
    "xtick.color": "muted",
    "ytick.color": "muted",
    "legend.labelcolor": "muted",
    "grid.color": "grid",
}
"""Which colour of the theme each of matplotlib's settings takes."""


@dataclass(frozen=True)
class Theme:
    """The colours of a figure's surface and of what is written on it."""

    surface: str
    text: str
    muted: str
    grid: str


LIGHT = Theme("#FFFFFF", "#1B1F24", "#57606A", "#E4E7EB")
DARK = Theme("#171B21", "#E6EAF0", "#9AA5B1", "#2C333D")


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a title, what draws it and returns what its legend shows, and its measures.

    Units: height, and left, the room for what stands beside the axes, in inches.
    """

    title: str
    draw: Callable[[Axes, Theme], Sequence[Artist]]
    height: float
    left: float = 0.6


def room_for(labels: Iterable[str]) -> float:
    """Return the inches that the longest of some labels needs."""
    return 0.25 + 0.075 * max(map(len, labels))


@contextmanager
def _styled(theme: Theme) -> Iterator[None]:
    """Draw in our style whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(STYLE, use_default_template=False))
        for key, part in THEMED.items():
            matplotlib.rcParams[key] = getattr(theme, part)
        yield


def draw_sheet(
    panels: Sequence[Panel], *, title: str = "", theme: Theme = LIGHT, columns: int = 3, width: float = WIDTH
) -> bytes:
    """Draw panels on one sheet, with one legend for all, and return it as PNG.

    Units: width of one panel in inches.
    """
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    with _styled(theme):
        heights = [max(panel.height for panel in row) for row in rows]
        head, foot = 0.4 * bool(title), 0.35
        size = (width * columns, sum(heights) + head + foot)
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        legend: dict[str, Artist] = {}
        top = size[1] - head
        for row, height in zip(rows, heights, strict=True):
            for place, panel in enumerate(row):
                corner = (place * width, top - panel.height)
                for handle in _add_panel(figure, panel, corner, width, theme):
                    legend.setdefault(str(handle.get_label()), handle)
            top -= height
        if title:
            figure.text(0.12 / size[0], 1 - 0.12 / size[1], title, va="top", fontsize="large", fontweight="bold")
        if legend:
            most = max(2, int(size[0] // 1.1))
            figure.legend(handles=[*legend.values()], loc="lower center", ncols=min(len(legend), most))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _add_panel(
    figure: Figure, panel: Panel, corner: tuple[float, float], width: float, theme: Theme
) -> Sequence[Artist]:
    """Draw a panel with its lower left corner at a place in inches, and return what its legend shows.

    Fixed margins: matplotlib's own layout engines take as long as the drawing.
    """
    across, up = figure.get_size_inches()
    below = 0.5
    box = (
        (corner[0] + panel.left) / across,
        (corner[1] + below) / up,
        (width - panel.left - 0.15) / across,
        (panel.height - below - 0.35) / up,
    )
    axes = figure.add_axes(box)
    axes.set_title(panel.title, x=(0.12 - panel.left) / (box[2] * across), horizontalalignment="left")
    return panel.draw(axes, theme)
