"""What a poison looks like: clean images, magnified perturbations, poisoned images.

Shapes: n images [n, H, W, 3], uint8.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sheet import ABOVE, BELOW, RIGHT, Panel, Sheet, draw_sheet
from engine.reporting.wording import budget_note, number

MAGNIFICATION = 10
TIMES = "\N{MULTIPLICATION SIGN}"
GREY = 128  # shows an unchanged pixel
MOST_CLASSES = 10
MOST_PIXELS = 64  # of a side; of larger images every second, third, ... pixel is shown
SHARPEN = 4  # screen pixels a pixel, so that scaling a figure does not blur or drop any
GAP = 2  # pixels between two images
SHEET_WIDTH = 9.0  # inches
LARGEST = 1.5  # inches of a side: a few images need not fill the sheet
LETTER = 0.065  # inches


@dataclass(frozen=True)
class Pictures:
    """One image per class: as it was, what was added, as it is released."""

    classes: tuple[str, ...]
    clean: np.ndarray
    noise: np.ndarray
    poisoned: np.ndarray
    clipped: float
    stride: int

    @property
    def note(self) -> str:
        """Say how the perturbation is shown."""
        note = f"perturbation {TIMES} {MAGNIFICATION} around mid-grey"
        if self.clipped:
            note += f" ({number(100 * self.clipped)} % of its values clipped)"
        return f"{note}{self.thinning}"

    @property
    def thinning(self) -> str:
        """Say which pixels of large images are shown."""
        return f"; one of every {self.stride} {TIMES} {self.stride} pixels is shown" if self.stride > 1 else ""


def pictures(facts: PoisonFacts) -> Pictures | None:
    """Return what a poison does to the first image of up to ten classes, or None where it is missing."""
    if facts.preview is None or facts.manifest is None:
        return None
    clean, poisoned = (facts.preview[name][:MOST_CLASSES].transpose(0, 2, 3, 1) for name in ("clean", "poisoned"))
    stride = math.ceil(max(clean.shape[1:3]) / MOST_PIXELS)
    clean, poisoned = clean[:, ::stride, ::stride], poisoned[:, ::stride, ::stride]
    raised = GREY + MAGNIFICATION * (poisoned.astype(np.int32) - clean)
    names = facts.manifest["class_names"]
    if len(names) != len(facts.preview["clean"]):  # a class without an image has no preview
        names = [f"class {index}" for index in range(len(clean))]
    return Pictures(
        tuple(names[: len(clean)]),
        clean,
        raised.clip(0, 255).astype(np.uint8),
        poisoned,
        float(((raised < 0) | (raised > 255)).mean()),
        stride,
    )


def mosaic(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows of images as one picture with transparent gaps, uint8 [H, W, 4]."""
    count, height, width, _ = rows[0].shape
    canvas = np.zeros((len(rows) * (height + GAP) - GAP, count * (width + GAP) - GAP, 4), np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = row * (height + GAP), column * (width + GAP)
            canvas[top : top + height, left : left + width] = np.dstack([image, np.full_like(image[..., 0], 255)])
    return canvas


def draw_perturbations(results: Results) -> Sheet:
    """Draw for every poison clean images, magnified perturbations and poisoned images."""
    panels = _panels(results) or [Panel("no poison is there to show", _draw_nothing, 1.0)]
    return draw_sheet(panels, title="One image per class, before and after poisoning", columns=1, width=SHEET_WIDTH)


def _draw_nothing(axes: Axes) -> Sequence[Artist]:
    axes.set_axis_off()
    return ()


def _panels(results: Results) -> list[Panel]:
    """Return a panel of pictures for every poison that changes images."""
    panels = []
    for facts in results.poisons.values():
        shown = pictures(facts)
        if shown is None or not facts.is_attack:
            continue
        rows = {"clean": shown.clean, f"perturbation\n{TIMES} {MAGNIFICATION}": shown.noise, "poisoned": shown.poisoned}
        title = f"{facts.name}: {shown.note}; {budget_note(facts)}"
        panels.append(image_panel(title, rows, shown.classes))
    return panels


def image_panel(
    title: str, rows: Mapping[str, np.ndarray], columns: Sequence[str], *, left: float = 1.0, foot: str = ""
) -> Panel:
    """Return a panel of named rows of images [n, H, W, 3].

    Units: left, the room for the rows' names, in inches.
    ``foot`` stands below the names of the columns.
    """
    height, width = next(iter(rows.values())).shape[1:3]
    across = SHEET_WIDTH - left - RIGHT
    side = min(across / len(columns), LARGEST)

    def draw(axes: Axes) -> Sequence[Artist]:
        _draw_images(axes, rows, columns)
        right = axes.get_xlim()[1]
        axes.set_xlim(right=right * across / (side * len(columns)))  # a few images leave room beside them
        axes.set_xlabel(textwrap.fill(foot, int(across / LETTER)), x=0, horizontalalignment="left")
        return ()

    return Panel(title, draw, ABOVE + BELOW + len(rows) * side * height / width, left=left)


def _draw_images(axes: Axes, rows: Mapping[str, np.ndarray], columns: Sequence[str]) -> None:
    height, width = next(iter(rows.values())).shape[1:3]
    canvas = mosaic([*rows.values()])
    edges = (-0.5, canvas.shape[1] - 0.5, canvas.shape[0] - 0.5, -0.5)
    sharp = canvas.repeat(SHARPEN, axis=0).repeat(SHARPEN, axis=1)
    axes.imshow(sharp, interpolation="nearest", extent=edges)
    axes.set_xticks([column * (width + GAP) + width / 2 for column in range(len(columns))], columns)
    axes.set_yticks([row * (height + GAP) + height / 2 for row in range(len(rows))], list(rows))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
