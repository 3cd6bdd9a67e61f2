"""What a poison costs, and what it leaves the learner that it harms least, as one figure.

Units: accuracies in percent, costs in image-views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator
from matplotlib.transforms import Bbox

from engine.reporting.inks import REFERENCE_COLOUR, Ink, inks
from engine.reporting.learners import WorstCase, headline_set, reached, worst_cases
from engine.reporting.results import Results
from engine.reporting.sheet import SURFACE, TEXT, Panel, Sheet, draw_sheet
from engine.reporting.tables import Spread, Summary

WIDE = 6.5  # inches
LETTERS = 8  # points
SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # of a point, where its name may stand
FREE = 0.3  # where on the axis a poison without cost stands, in decades left of the cheapest other one


def draw_cost(results: Results, summaries: Sequence[Summary]) -> Sheet | None:
    """Draw every attack's worst case against its image-views; None where none is measured."""
    cases = worst_cases(results, summaries, headline_set(results.study))
    shown = [case for case in cases if case.facts.is_attack and case.accuracy and case.image_views is not None]
    if not shown:
        return None
    ink = inks(results)

    def draw(axes: Axes) -> Sequence[Artist]:
        return _draw_cases(axes, shown, ink)

    title = f"the best accuracy that any learner reaches, probed on {headline_set(results.study)}"
    return draw_sheet([Panel(title, draw, 3.6)], title="What a poison costs and what it does", columns=1, width=WIDE)


def _draw_cases(axes: Axes, cases: Sequence[WorstCase], ink: dict[str, Ink]) -> list[Artist]:
    _scale(axes, [case.image_views or 0 for case in cases])
    handles = _draw_clean(axes, cases[0].clean)
    taken: list[Bbox] = []
    for case in cases:
        handles.append(_draw_case(axes, case, ink[case.facts.name]))
        _name(axes, case, taken)
    axes.set_xlabel("image-views to make the poison, with those that its noise starts from")
    axes.set_ylabel("accuracy (%)")
    return handles


def _scale(axes: Axes, costs: Sequence[int]) -> None:
    """Scale the costs by their logarithm; what costs nothing has a place left of what costs something."""
    least, most = min(filter(None, costs), default=1), max(*costs, 1)
    axes.set_xscale("symlog", linthresh=least / 10, linscale=FREE)
    lowest, highest = math.floor(math.log10(least)), math.ceil(math.log10(5 * most))
    axes.set_xlim(-least / 30 if 0 in costs else 0.8 * 10.0**lowest, 5 * most)
    axes.set_ylim(0, 105)
    axes.set_xticks([*([0] if 0 in costs else []), *(10.0**decade for decade in range(lowest, highest))])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter())


def _draw_clean(axes: Axes, clean: Summary | None) -> list[Artist]:
    found = reached(clean) if clean else None
    if found is None:
        return []
    look: dict[str, Any] = {"color": REFERENCE_COLOUR, "zorder": 1}
    if found.sd:
        axes.axhspan(found.mean - found.sd, found.mean + found.sd, alpha=0.18, linewidth=0, **look)
    return [axes.axhline(found.mean, linewidth=2.4, alpha=0.7, label=f"clean images, n = {found.n}", **look)]


def _draw_case(axes: Axes, case: WorstCase, ink: Ink) -> Artist:
    found = case.accuracy or Spread(0, math.nan)
    look: dict[str, Any] = {"color": ink.colour, "marker": ink.marker, "markersize": 7, "linestyle": ""}
    edge: dict[str, Any] = {"markeredgecolor": SURFACE, "markeredgewidth": 0.8, "zorder": 4}
    bars: dict[str, Any] = {"yerr": found.sd or 0, "ecolor": ink.colour, "capsize": 3, "elinewidth": 1.2}
    axes.errorbar(case.image_views or 0, found.mean, **bars, **look, **edge)
    return Line2D([], [], label=case.facts.name, **look)


def _name(axes: Axes, case: WorstCase, taken: list[Bbox]) -> None:
    """Write a point's name and n where no other name stands yet, or else at its upper right."""
    found = case.accuracy or Spread(0, math.nan)
    text = f"{case.facts.name}, n = {found.n}"
    x, y = axes.transData.transform((case.image_views or 0, found.mean))
    dots = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    boxes = {side: _box((x, y), side, len(text), dots) for side in SIDES}
    side = next((side for side, box in boxes.items() if not any(map(box.overlaps, taken))), SIDES[0])
    taken.append(boxes[side])
    across, up = side
    axes.annotate(
        text,
        (case.image_views or 0, found.mean),
        (8 * across, 8 * up),
        textcoords="offset points",
        ha="left" if across > 0 else "right",
        va="center",
        fontsize=LETTERS,
        color=TEXT,
        zorder=5,
    )


def _box(point: tuple[float, float], side: tuple[int, int], letters: int, dots: float) -> Bbox:
    """Return about what a name covers beside a point, in dots."""
    (x, y), (across, up) = point, side
    near, width = x + 8 * across * dots, 0.6 * LETTERS * letters * across * dots
    middle, half = y + 8 * up * dots, 0.6 * LETTERS * dots
    return Bbox.from_extents(min(near, near + width), middle - half, max(near, near + width), middle + half)
