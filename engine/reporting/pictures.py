"""What a poison looks like: clean images, magnified perturbations, poisoned images.

Shapes: n images [n, H, W, 3], uint8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sheet import Panel, Sheet, draw_sheet, to_png
from engine.reporting.wording import budget_note, number

MAGNIFICATION = 10
TIMES = "\N{MULTIPLICATION SIGN}"
GREY = 128  # shows an unchanged pixel
MOST_CLASSES = 10
MOST_PIXELS = 64  # of a side; of larger images every second, third, ... pixel is shown
SHARPEN = 4  # screen pixels a pixel, so that scaling a figure does not blur or drop any
GAP = 2  # pixels between two images
SHEET_WIDTH = 9.0  # inches


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
        """Say how the middle row was made."""
        note = f"perturbation {TIMES} {MAGNIFICATION} around mid-grey"
        if self.clipped:
            note += f" ({number(100 * self.clipped)} % of its values clipped)"
        if self.stride > 1:
            note += f"; one of every {self.stride} {TIMES} {self.stride} pixels is shown"
        return note


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


def stack_png(shown: Pictures, index: int) -> bytes:
    """Return one class as PNG: clean above perturbation above poisoned, with transparent gaps."""
    rows = [half[index] for half in (shown.clean, shown.noise, shown.poisoned)]
    height, width, _ = rows[0].shape
    canvas = np.zeros((3 * height + 2 * GAP, width, 4), np.uint8)
    for place, image in enumerate(rows):
        top = place * (height + GAP)
        canvas[top : top + height, :, :3] = image
        canvas[top : top + height, :, 3] = 255
    return to_png(canvas)


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
        height, width = shown.clean.shape[1:3]

        def draw(axes: Axes, shown: Pictures = shown) -> Sequence[Artist]:
            _draw_pictures(axes, shown)
            return ()

        side = (SHEET_WIDTH - 1.15) / len(shown.classes)
        title = f"{facts.name}: {shown.note}; {budget_note(facts)}"
        panels.append(Panel(title, draw, 0.85 + 3 * side * height / width, left=1.0))
    return panels


def _draw_pictures(axes: Axes, shown: Pictures) -> None:
    count, height, width, _ = shown.clean.shape
    rows = {"clean": shown.clean, f"perturbation\n{TIMES} {MAGNIFICATION}": shown.noise, "poisoned": shown.poisoned}
    canvas = np.zeros((3 * (height + GAP) - GAP, count * (width + GAP) - GAP, 4), np.uint8)
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = row * (height + GAP), column * (width + GAP)
            canvas[top : top + height, left : left + width] = np.dstack([image, np.full_like(image[..., 0], 255)])
    edges = (-0.5, canvas.shape[1] - 0.5, canvas.shape[0] - 0.5, -0.5)
    sharp = canvas.repeat(SHARPEN, axis=0).repeat(SHARPEN, axis=1)
    axes.imshow(sharp, interpolation="nearest", extent=edges)
    axes.set_xticks([column * (width + GAP) + width / 2 for column in range(count)], shown.classes)
    axes.set_yticks([row * (height + GAP) + height / 2 for row in range(3)], list(rows))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
