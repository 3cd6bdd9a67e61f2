"""Arrays of NumPy, read after their sizes were looked at."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from engine.importing.found import ImportFault

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load(file: Path, names: tuple[str, ...], *, most_bytes: int) -> dict[str, np.ndarray]:
    """Return some arrays of an .npz file, those of the names that it has; nothing is unpickled.

    Raises:
        ImportFault: it is no such file, is damaged, or an array is larger than ``most_bytes``.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            there = [name for name in names if f"{name}.npy" in archive.namelist()]
            return {name: _array(archive, name, most_bytes) for name in there}
    except ImportFault as fault:
        raise ImportFault(f"{file}: {fault}") from fault
    except Exception as error:  # damaged archives and headers make their readers raise anything
        raise ImportFault(f"{file} is no readable .npz file ({type(error).__name__}: {error})") from error


def _array(archive: zipfile.ZipFile, name: str, most_bytes: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise ImportFault(f"array {name} has the unknown format {version}")
        shape, is_fortran, dtype = HEADERS[version](stream)
        if dtype.hasobject:
            raise ImportFault(f"array {name} holds pickled objects, which are not read")
        if min(shape, default=0) < 0:  # would pass every limit, and read without end
            raise ImportFault(f"array {name} has the impossible shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if size > most_bytes:
            raise ImportFault(f"array {name} would take {size / 1e9:.3g} GB: shape {shape} of {dtype}")
        content = stream.read(size)
        if len(content) < size or stream.read(1):
            raise ImportFault(f"array {name} has another size than its header says")
    array = np.frombuffer(content, dtype=dtype).astype(dtype.newbyteorder("="))
    return array.reshape(shape[::-1]).transpose() if is_fortran else array.reshape(shape)
