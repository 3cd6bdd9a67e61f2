"""The perturbation in whole grey levels, written to a safetensors file row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HEADER = 256
"""Bytes of the file before its data: room for the length and the description, padded as the format allows."""


class LevelsWriter:
    """One tensor ``levels``, int8, whose number of rows is known at the end.

    safetensors writes whole tensors from memory; its format says the size first, in a header that may end in spaces.

    Source: https://github.com/huggingface/safetensors, section Format.
    """

    def __init__(self, file: Path) -> None:
        self._stream = file.open("wb")
        self._stream.write(bytes(HEADER))
        self._rows = 0
        self._shape: tuple[int, ...] = ()

    def add(self, levels: Tensor) -> None:
        """Append rows, int8 [M, ...]."""
        self._rows, self._shape = self._rows + len(levels), tuple(levels.shape[1:])
        self._stream.write(levels.contiguous().numpy().data)

    def close(self) -> None:
        """Write the header."""
        data = self._stream.tell() - HEADER
        described = {"levels": {"dtype": "I8", "shape": [self._rows, *self._shape], "data_offsets": [0, data]}}
        length = HEADER - 8
        self._stream.seek(0)
        self._stream.write(length.to_bytes(8, "little") + json.dumps(described).encode().ljust(length))
        self._stream.close()
