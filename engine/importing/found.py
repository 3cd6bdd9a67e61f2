"""What a released poison holds, whatever its form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor


class ImportFault(EngineError):
    """A released poison cannot be read, or is not one of these clean images."""


@dataclass(frozen=True)
class Found:
    """Noise or images, as they were found.

    Shapes: values float [n, 3, H, W] (``noise``), or uint8 [n, 3, H, W] (``images``); labels, places int64 [n].
    Units: noise in multiples of ``unit``.
    """

    file: Path
    what: Literal["noise", "images"]
    values: Tensor
    unit: Literal["pixel range", "budget"] = "pixel range"
    labels: Tensor | None = None
    places: Tensor | None = None
    """Where each image stands in the clean data set, where the form says so."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels, where the form says so."""
    names: tuple[str, ...] = ()
    """The file of each image, where it has one, relative to the folder."""
