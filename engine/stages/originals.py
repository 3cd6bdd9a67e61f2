"""Some released images beside their clean originals: what networks are looked at with.

Only the engine sees both. A learner is trained on what is released, and nothing here reaches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.artifacts import read_some
from engine.errors import EngineError
from engine.processes import is_first
from engine.protocols import Split
from engine.stages.inputs import load_dataset
from engine.study import Cell, poison_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def originals(cell: Cell) -> Split | None:
    """Return the data set that a cell's poison was made of, or None where it is not here; why is printed."""
    try:
        return load_dataset(cell.dataset)[1]
    except EngineError as error:
        _say(cell, str(error))
        return None


def some_images(
    cell: Cell, manifest: dict[str, Any], split: Split | None, most: int, draws: torch.Generator
) -> dict[str, Tensor]:
    """Draw at most some of a cell's images: ``released``, and as ``clean`` the same ones before any attack.

    They are matched by the place in the data set that the poison keeps of each of its images. Without a data set, or
    with one of other images than the poison was made of, there are no clean ones.

    Shapes: both uint8 [M, 3, H, W].
    """
    import torch

    from engine.images import checksum

    rows = torch.randperm(manifest["images"], generator=draws)[:most].sort().values
    released_u8, places = read_some(poison_path(cell.dataset, cell.poison), rows)
    if split is None:
        return {"released": released_u8}
    if checksum(split) != manifest["dataset"]["checksum"]:
        _say(cell, f"{cell.poison} was made of other images")
        return {"released": released_u8}
    return {"released": released_u8, "clean": split.train.images_u8[places]}


def _say(cell: Cell, why: str) -> None:
    if is_first():
        print(f"{cell.key}: clean originals are not measured: {why}", flush=True)
