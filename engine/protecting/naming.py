"""What protected files are called: as the owner's, where a lossless format allows it."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from engine.protecting.intake import Original

LARGEST_WEBP = 16383  # pixels a side; the format holds no more
FORMATS = {".png": "PNG", ".webp": "WEBP"}
"""Endings that stay, and the lossless format written under each; every other ending becomes .png."""


def protected_names(originals: tuple[Original, ...]) -> tuple[str, ...]:
    """Return the new name of every image: the same folder and stem, with an ending of a lossless format.

    Where that name is taken, by another image's old or new one, .png is put behind the whole old name. Names that
    differ in case alone count as the same, as on many disks.
    """
    kept = {original.name: original.name for original in originals if _stays(original)}
    others = [original.name for original in originals if original.name not in kept]
    wished = {name: str(PurePosixPath(name).with_suffix(".png")) for name in others}
    claims = Counter(name.casefold() for name in (*kept.values(), *wished.values()))
    taken = {name.casefold() for name in kept.values()}
    for name in others:
        new = wished[name] if claims[wished[name].casefold()] == 1 else f"{name}.png"
        while new.casefold() in taken or (new != wished[name] and new.casefold() in claims):
            new += ".png"
        taken.add(new.casefold())
        kept[name] = new
    return tuple(kept[original.name] for original in originals)


def _stays(original: Original) -> bool:
    suffix = PurePosixPath(original.name).suffix.lower()
    return suffix in FORMATS and (suffix != ".webp" or max(original.width, original.height) <= LARGEST_WEBP)


def format_of(name: str) -> str:
    """Return the format in which a protected file of a name is written."""
    return FORMATS[PurePosixPath(name).suffix.lower()]
