"""Sheets of panels: drawn on Agg in one style, without global state, the same bytes for the same numbers."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

STYLE = Path(__file__).parent / "templates" / "figures.mplstyle"
TEXT, MUTED, SURFACE = "#1b1f24", "#57606a", "#ffffff"  # as in figures.mplstyle
WIDTH = 4.5  # of one panel
ABOVE, BELOW, RIGHT, EDGE = 0.35, 0.5, 0.15, 0.12  # room around a panel's axes
HEAD, FOOT = 0.4, 0.55  # room for the sheet's title, and for a legend of two lines
METADATA_OF_SVG = ("Creator", "Date", "Format", "Type")  # what matplotlib writes unasked


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a title, what draws it and returns what its legend shows, and its measures.

    Units: height, and left, the room for what stands beside the axes, in inches.
    """

    title: str
    draw: Callable[[Axes], Sequence[Artist]]
    height: float
    left: float = 0.6


@dataclass(frozen=True)
class Sheet:
    """A drawn sheet.

    Shapes: pixels uint8 [H, W, 3]; boxes holds every panel's (left, top, right, bottom) in it.
    """

    panels: tuple[Panel, ...]
    figure: Figure
    pixels: np.ndarray
    boxes: tuple[tuple[int, int, int, int], ...]

    def png(self) -> bytes:
        """Return the whole sheet as PNG."""
        return to_png(self.pixels)

    def svg(self) -> bytes:
        """Return the whole sheet as SVG, without metadata; letters are outlines, so that it needs no font."""
        buffer = io.BytesIO()
        with _styled():
            self.figure.savefig(buffer, format="svg", metadata=dict.fromkeys(METADATA_OF_SVG))
        return buffer.getvalue()

    def panel_pngs(self) -> Iterator[tuple[str, bytes]]:
        """Yield the title and the picture of every panel, without the legend."""
        for panel, (left, top, right, bottom) in zip(self.panels, self.boxes, strict=True):
            yield panel.title, to_png(self.pixels[top:bottom, left:right])


def to_png(pixels: np.ndarray) -> bytes:
    """Return a picture as PNG, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def room_for(labels: Iterable[str]) -> float:
    """Return the inches that the longest of some labels needs."""
    return 0.25 + 0.075 * max(map(len, labels))


def draw_sheet(panels: Sequence[Panel], *, title: str, columns: int = 3, width: float = WIDTH) -> Sheet:
    """Draw panels on one sheet, with one title and one legend for all.

    Margins are fixed: matplotlib's own layout engines take as long as the drawing.

    Units: width of one panel in inches.
    """
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    across, up = width * columns, sum(heights) + HEAD + FOOT
    with _styled():
        figure = Figure(figsize=(across, up))
        canvas = FigureCanvasAgg(figure)
        legend: dict[str, Artist] = {}
        corners = []
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            corners.append((column * width, HEAD + sum(heights[:row])))
            for handle in _add_panel(figure, panel, corners[-1], width):
                legend.setdefault(str(handle.get_label()), handle)
        figure.text(EDGE / across, 1 - EDGE / up, title, va="top", fontsize="large", fontweight="bold")
        if legend:
            most = max(2, int(across // 0.9))
            figure.legend(handles=[*legend.values()], loc="lower center", ncols=min(len(legend), most))
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        dpi = figure.dpi
    boxes = [(x, y, x + width, y + panel.height) for (x, y), panel in zip(corners, panels, strict=True)]
    return Sheet(tuple(panels), figure, pixels, tuple(tuple(round(edge * dpi) for edge in box) for box in boxes))  # type: ignore[misc]


def _add_panel(figure: Figure, panel: Panel, corner: tuple[float, float], width: float) -> Sequence[Artist]:
    """Draw a panel with its upper left corner at a place in inches, and return what its legend shows."""
    across, up = figure.get_size_inches()
    inner = (width - panel.left - RIGHT, panel.height - ABOVE - BELOW)
    bottom = up - corner[1] - panel.height + BELOW
    axes = figure.add_axes(((corner[0] + panel.left) / across, bottom / up, inner[0] / across, inner[1] / up))
    axes.set_title(panel.title, x=(EDGE - panel.left) / inner[0], y=1 + 0.1 / inner[1])
    return panel.draw(axes)


@contextmanager
def _styled() -> Iterator[None]:
    """Draw in our style whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(), _without_collector():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(matplotlib.rc_params_from_file(STYLE, use_default_template=False))
        yield


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector away: a figure's many small objects live as long as it does.

    Looking for garbage among them is a sixth of the time of a large report.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
