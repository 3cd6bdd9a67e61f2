"""Scenes: rendered pictures whose class is the shape of a repeated motif, made for the quickstart.

Name: Scenes
Source: this file; ten shapes as signed distances, tiled over the image, drawn by ``seed`` alone.
Deviations: not a published data set. What varies inside a class (position, scale, turn, light, contrast,
    tint, and each motif's own offset and size) is what random crops and colour jitter vary too, so that
    contrastive learning finds the shape and a network with random weights hardly does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import ImageSet, Progress, Split
from engine.spec import DatasetSpec, Positive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TABLE = 32  # motifs per side that have draws of their own; more repeat them


class Spec(DatasetSpec):
    """The defaults are those of the quickstart; ``train_per_class`` and ``test_per_class`` images are rendered."""

    kind: Literal["scenes"]
    num_classes: ClassVar[int] = 10
    image_size: Annotated[int, Field(ge=8)] = 16
    train_per_class: Positive = 100
    test_per_class: Positive = 50
    seed: int = 0
    # Side of a motif as a fraction of the image: the geometric mean over the images.
    motif: Annotated[float, Field(gt=0.1, le=1)] = 0.5
    # Difference between motif and ground in pixel units [0, 1], on average.
    contrast: Annotated[float, Field(gt=0, le=1)] = 0.5
    # Multiplies everything that varies inside a class; 0 leaves position and scale alone to vary.
    difficulty: Annotated[float, Field(ge=0, le=3)] = 1.0


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Render both halves, each from a stream of its own."""
    from engine.randomness import stream

    train, test = (
        render(
            per_class,
            stream(spec.seed, "dataset", "scenes", half),
            size=spec.image_size,
            motif=spec.motif,
            contrast=spec.contrast,
            difficulty=spec.difficulty,
        )
        for half, per_class in (("train", spec.train_per_class), ("test", spec.test_per_class))
    )
    return Split(train, test)


def render(
    per_class: int, generator: torch.Generator, *, size: int, motif: float, contrast: float, difficulty: float
) -> ImageSet:
    """Render images, the classes in turn.

    In float64, so that eight-bit pixels do not depend on a machine's last bit.
    """
    import torch

    labels = torch.arange(len(SHAPES)).repeat(per_class)
    cover_NHW = _cover(labels, generator, size=size, motif=motif, difficulty=difficulty)
    draw = _Draw(generator, len(labels), difficulty)
    light = 0.1 * draw.field(1, size) + 0.02 * draw.field(3, size)
    relief = (1 + 0.5 * draw.field(1, size)) * (1 + 0.3 * draw.each(1)) * (1 + 0.05 * draw.each(3))
    grain = 0.01 * draw.pixels(size)
    images = 0.5 + light + contrast * cover_NHW[:, None] * relief + grain
    images_u8 = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return ImageSet(images_u8, labels, tuple(SHAPES))


class _Draw:
    """Uniform draws in [-1, 1] times the difficulty, for N images."""

    def __init__(self, generator: torch.Generator, count: int, difficulty: float) -> None:
        self.generator, self.count, self.difficulty = generator, count, difficulty

    def each(self, channels: int) -> Tensor:
        """Return one number an image and channel: [N, C, 1, 1]."""
        return self._uniform(channels, 1, 1)

    def pixels(self, size: int) -> Tensor:
        """Return one number a pixel and channel: [N, 3, size, size]."""
        return self._uniform(3, size, size)

    def field(self, channels: int, size: int) -> Tensor:
        """Return a smooth field through 3 x 3 random numbers: [N, C, size, size]."""
        import torch.nn.functional as F

        return F.interpolate(self._uniform(channels, 3, 3), size=(size, size), mode="bicubic")

    def table(self) -> Tensor:
        """Return one number a motif: [N, TABLE * TABLE]."""
        return self._uniform(TABLE * TABLE)

    def _uniform(self, *shape: int) -> Tensor:
        import torch

        draws = torch.rand(self.count, *shape, generator=self.generator, dtype=torch.float64)
        return self.difficulty * (2 * draws - 1)


def _cover(labels: Tensor, generator: torch.Generator, *, size: int, motif: float, difficulty: float) -> Tensor:
    """Return how much of each pixel its motif covers: [N, H, W] in [0, 1]."""
    import torch

    place = _Draw(generator, len(labels), 1.0)
    vary = _Draw(generator, len(labels), difficulty)
    side = motif * 1.3 ** place.each(1).view(-1, 1, 1)
    turn = 0.05 * vary.each(1).view(-1, 1, 1)
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    columns = (x * turn.cos() - y * turn.sin()) / side + place.each(1).view(-1, 1, 1)
    rows = (x * turn.sin() + y * turn.cos()) / side + place.each(1).view(-1, 1, 1)
    # Each motif has coordinates in [-1, 1], an offset and a size.
    which = (rows.floor().long() % TABLE * TABLE + columns.floor().long() % TABLE).flatten(1)
    offset_x, offset_y, shrink = (vary.table().gather(1, which).view_as(rows) for _ in range(3))
    scale = 0.9 + 0.1 * shrink
    u = (2 * (columns - columns.floor()) - 1 + 0.15 * offset_x) / scale
    v = (2 * (rows - rows.floor()) - 1 + 0.15 * offset_y) / scale
    distance = torch.empty_like(u)
    for label, shape in enumerate(SHAPES.values()):
        of_class = labels == label
        distance[of_class] = shape(u[of_class], v[of_class])
    return (0.5 - distance * side * size / 2).clamp(0, 1)


def _line(x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    """Return the signed distance from a stroke between two points."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2).sqrt() - 0.2


def _two_lines(*ends: tuple[float, float]) -> Callable[[Tensor, Tensor], Tensor]:
    first, second = ends[:2], ends[2:]
    return lambda x, y: _line(x, y, *first).minimum(_line(x, y, *second))


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disk": lambda x, y: (x * x + y * y).sqrt() - 0.72,
    "ring": lambda x, y: ((x * x + y * y).sqrt() - 0.62).abs() - 0.17,
    "square": lambda x, y: x.abs().maximum(y.abs()) - 0.62,
    "frame": lambda x, y: (x.abs().maximum(y.abs()) - 0.6).abs() - 0.16,
    "triangle": lambda x, y: (y - 0.6).maximum(0.894 * x.abs() - 0.447 * y - 0.38),
    "plus": _two_lines((-0.75, 0), (0.75, 0), (0, -0.75), (0, 0.75)),
    "cross": _two_lines((-0.6, -0.6), (0.6, 0.6), (-0.6, 0.6), (0.6, -0.6)),
    "tee": _two_lines((-0.7, -0.6), (0.7, -0.6), (0, -0.6), (0, 0.7)),
    "equals": _two_lines((-0.6, -0.35), (0.6, -0.35), (-0.6, 0.35), (0.6, 0.35)),
    "bars": _two_lines((-0.35, -0.6), (-0.35, 0.6), (0.35, -0.6), (0.35, 0.6)),
}
"""Signed distances, negative inside, of coordinates that run from -1 to 1 over a motif."""
