"""How two versions of a poisoned data set differ: in what made them, and image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.encoding import decode
from engine.artifacts.files import ArtifactError
from engine.artifacts.manifest import read_manifest
from engine.artifacts.poison import encoded_images

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 20
"""Places of images that are named."""
FILES = "files."
"""What the names of checksums open with: they follow from everything else."""

Row = tuple[int, int, bytes, bool]
"""An image's place in the data set, its label, its PNG file, and whether it is perturbed."""


@dataclass(frozen=True)
class Comparison:
    """What differs between two poisons of one data set.

    ``fields`` are the values of manifests that differ, None where one has none; ``only`` counts images of either alone.
    Units: largest and mean, over the images that differ, in grey levels.
    """

    fields: dict[str, tuple[Any, Any]]
    common: int
    only: tuple[int, int]
    changed: list[int]
    relabelled: list[int]
    flagged: list[int]
    largest: int
    mean: float

    @property
    def is_same(self) -> bool:
        """Say whether nothing differs but names."""
        return not (self.fields or any(self.only) or self.changed or self.relabelled or self.flagged)

    def text(self) -> str:
        """Return lines for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.is_same:
            yield f"the same: {self.common:,} images, and all that is known of them"
            return
        width = max((len(name) for name in self.fields), default=0)
        for name, (first, second) in self.fields.items():
            yield f"{name:<{width}}  {_shown(first)} -> {_shown(second)}"
        for which, count in zip(("first", "second"), self.only, strict=True):
            if count:
                yield f"{count:,} images are only in the {which}"
        if self.changed:
            sizes = f"by up to {self.largest} grey levels, by {self.mean:.3g} on average"
            yield f"{len(self.changed):,} of {self.common:,} images differ, {sizes}: {_places(self.changed)}"
        else:
            yield f"the pixels of all {self.common:,} images are the same"
        if self.relabelled:
            yield f"{len(self.relabelled):,} images have another label: {_places(self.relabelled)}"
        if self.flagged:
            yield f"{len(self.flagged):,} images are perturbed in one only: {_places(self.flagged)}"


def compare(first: Path, second: Path) -> Comparison:
    """Compare two poisons, image by image, by their places in the data set.

    Raises:
        ArtifactError: one is missing or damaged, or their images have different sizes.
    """
    import torch

    manifests = tuple(_flat(read_manifest(folder)) for folder in (first, second))
    names = [name for name in dict.fromkeys((*manifests[0], *manifests[1])) if not name.startswith(FILES)]
    values = {name: (manifests[0].get(name), manifests[1].get(name)) for name in names}
    if (shapes := values["image_shape"])[0] != shapes[1]:
        raise ArtifactError(
            f"images of {first} are {shapes[0]}, those of {second} {shapes[1]}: they cannot be compared"
        )
    only, common = [0, 0], 0
    relabelled: list[int] = []
    flagged: list[int] = []
    differences: dict[int, Tensor] = {}
    for one, other in _matched(first, second):
        if one is None or other is None:
            only[one is None] += 1
            continue
        common += 1
        relabelled += [one[0]] if one[1] != other[1] else []
        flagged += [one[0]] if one[3] != other[3] else []
        if one[2] != other[2]:
            pixels = decode([one[2], other[2]]).short()
            if (difference := (pixels[0] - pixels[1]).abs()).any():
                differences[one[0]] = torch.stack((difference.max().double(), difference.double().mean()))
    different = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
    sizes = torch.stack(list(differences.values())) if differences else torch.zeros(1, 2)
    largest, mean = int(sizes[:, 0].max()), sizes[:, 1].mean().item()
    return Comparison(different, common, (only[0], only[1]), list(differences), relabelled, flagged, largest, mean)


def _matched(first: Path, second: Path) -> Iterator[tuple[Row | None, Row | None]]:
    """Yield rows of both with the same place, or one alone where the other has none; places rise."""
    rows = (_rows(first), _rows(second))
    one, other = next(rows[0], None), next(rows[1], None)
    while one or other:
        if other is None or (one is not None and one[0] < other[0]):
            yield one, None
            one = next(rows[0], None)
        elif one is None or other[0] < one[0]:
            yield None, other
            other = next(rows[1], None)
        else:
            yield one, other
            one, other = next(rows[0], None), next(rows[1], None)


def _rows(folder: Path) -> Iterator[Row]:
    for part in encoded_images(folder):
        yield from zip(part.places, part.labels, part.png, part.perturbed, strict=True)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _places(places: list[int]) -> str:
    return ", ".join(map(str, places[:SHOWN])) + (", ..." if len(places) > SHOWN else "")
