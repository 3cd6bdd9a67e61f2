"""The protected folder: every readable image with its noise, at full size, in a lossless format; one at a time.

Formats that lose or cannot hold the noise (JPEG, GIF, ...) become PNG. Transparency is laid over white, of several
frames the first is kept, sixteen bits become eight, the EXIF orientation is applied; other metadata is left out but
for the colour profile of RGB images.

Shapes: N images, S x S the working size; levels int8 [N, 3, S, S].
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from engine.artifacts.files import writing
from engine.images import FORMATS, upright_rgb
from engine.progress import progress_of
from engine.protecting.intake import Intake, IntakeFault, Original, working_image
from engine.protecting.naming import format_of, protected_names
from engine.protecting.upsample import max_difference, protect_image
from engine.protecting.variants import RELEASED, VARIANTS

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, RECORD, VERDICT = "images", "protected.json", ("verdict.json", "verdict.md")
WITH_PROFILE = ("RGB", "RGBA")
"""Modes whose colour profile still fits the RGB image that they become."""


@dataclass(frozen=True)
class Survival:
    """How much of the working noise reaches a network that sees the file at the working size.

    Units: ``norm`` a fraction of the working noise's Euclidean norm; ``cosine`` of the angle between the two.
    """

    norm: float
    cosine: float


@dataclass(frozen=True)
class Written:
    """One protected file; ``max_difference`` in grey levels, at full size."""

    original: Original
    name: str
    max_difference: int
    survival: Survival | None

    def record(self) -> dict[str, Any]:
        """Return it as plain values."""
        survival = asdict(self.survival) if self.survival else None
        return {**asdict(self.original), "new_name": self.name, "max_difference": self.max_difference} | {
            "survival": survival
        }


def put(target: Path, text: str) -> None:
    """Write a text file in one step, by way of its own folder: an owner's output may lie on another disk.

    Raises:
        NotWritten: the disk is full, or does not let this user write.
    """
    partial = target.with_name(f"{target.name}.partial")
    with writing(target):
        partial.write_text(text)
        partial.replace(target)


def put_json(target: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step; the same content gives the same bytes."""
    put(target, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_protected(
    intake: Intake, levels_of: Callable[[int], Tensor], *, bound: int, output: Path
) -> tuple[list[Written], dict[str, Tensor]]:
    """Write ``output``/images, and return what was written and every variant's working images: uint8 [N, 3, S, S].

    Units: bound in grey levels.

    Raises:
        IntakeFault: a file was changed since it was read.
        NotWritten: the disk is full, or does not let this user write.
    """
    import torch

    names = protected_names(intake.originals)
    variants = {name: torch.empty_like(intake.working_u8) for name in VARIANTS}
    written = []
    partial, target = output / f"{IMAGES}.partial", output / IMAGES
    with writing(target), progress_of(f"write {output.name}") as progress:
        shutil.rmtree(partial, ignore_errors=True)
        for row, (original, name) in enumerate(zip(intake.originals, names, strict=True)):
            levels = levels_of(row)
            image_u8, profile = _read_again(intake.folder, original)
            protected_u8 = protect_image(image_u8, levels, bound=bound)
            file = partial / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(protected_u8).save(file, format_of(name), lossless=True, icc_profile=profile)
            for variant, change in VARIANTS.items():
                seen = working_image(Image.fromarray(change(protected_u8)), levels.shape[-1])
                variants[variant][row] = torch.from_numpy(seen)
            survival = survival_of(intake.working_u8[row], variants[RELEASED][row], levels)
            written.append(Written(original, name, max_difference(image_u8, protected_u8), survival))
            progress(row + 1, len(names), "images protected")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    return written, variants


def _read_again(folder: Path, original: Original) -> tuple[np.ndarray, bytes | None]:
    try:
        with Image.open(folder / original.name, formats=FORMATS) as opened:
            profile = opened.info.get("icc_profile") if opened.mode in WITH_PROFILE else None
            image = upright_rgb(opened)
    except Exception as error:
        raise IntakeFault(f"{folder / original.name} was changed while its folder was protected: {error}") from error
    if image.size != (original.width, original.height):
        raise IntakeFault(f"{folder / original.name} was changed while its folder was protected; run the command again")
    return np.asarray(image), profile


def survival_of(clean_u8: Tensor, seen_u8: Tensor, levels: Tensor) -> Survival | None:
    """Compare the noise that is seen at the working size with what was made there; None where none was made.

    What was made is taken as it would be released there: clipped to the range of pixels.

    Shapes: all [3, S, S].
    """
    clean = clean_u8.int()
    made = ((clean + levels).clamp(0, 255) - clean).double().flatten()
    seen = (seen_u8.int() - clean).double().flatten()
    if not made.any() or not seen.any():
        return None if not made.any() else Survival(0.0, 0.0)
    cosine = float(made @ seen / (made.norm() * seen.norm()))
    return Survival(round(float(seen.norm() / made.norm()), 4), round(cosine, 4))
