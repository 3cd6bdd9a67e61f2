"""Tensors in files that torch saved, read without running what else the files ask for.

A pickle is a program: it may name any function of any module and call it. Here it finds only tensors, their storages
and plain containers; every other name, such as the options that released checkpoints hold, becomes an inert stand-in.
Sizes are checked before anything is allocated.

Source: torch.serialization, the zip format of torch 1.6 and later: ``data.pkl``, and a file a storage below ``data/``.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.importing.found import ImportFault

MOST_OBJECTS = 1_000_000
"""Places in a pickle's memory; an honest checkpoint has some thousands."""
MOST_TUPLES = 20_000
"""Tuples in a pickle; an honest checkpoint has four or five a tensor."""
MOST_PICKLE = 2**24
"""Bytes of the pickle itself, which holds no numbers of tensors."""
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
MEMO = ("PUT", "BINPUT", "LONG_BINPUT")


class Inert:
    """Stands for whatever a pickle names: takes any call, keeps nothing, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Make one, whatever it is given."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """Do nothing."""
        return self

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing."""

    def append(self, value: Any) -> None:
        """Keep nothing."""

    def extend(self, values: Any) -> None:
        """Keep nothing."""

    def add(self, value: Any) -> None:
        """Keep nothing."""


class Stored(Inert):
    """Says where a tensor lies in the file; nothing of it is read yet."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _Parameter(Inert):
    """A parameter is the tensor in it."""

    def __new__(cls, data: Any, *_: Any) -> Any:
        return data


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str


class _Unpickler(pickle.Unpickler):
    # What is returned here is only ever classes whose ``__setstate__`` does nothing. A tensor, or a function, would let
    # the pickle set its state: ``Tensor.__setstate__`` takes any sizes, and makes room for them.
    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few things that a tensor is made of, or a stand-in."""
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return Stored
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        return Inert

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a tensor names."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[2], str)):
            raise ImportFault("names something that is no storage")
        if not isinstance(pid[1], torch.dtype):
            raise ImportFault(f"holds a storage of the unknown type {pid[1]!r}")
        return _Storage(pid[1], pid[2])


def _tensor(stored: Stored, read: Callable[[str], bytes]) -> Tensor:
    """Return a tensor of a storage; sizes that reach beyond it are refused."""
    storage, offset, size, stride = stored.storage, stored.offset, stored.size, stored.stride
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ImportFault("holds a tensor without a storage")
    numbers = (offset, *size, *stride)
    if not all(isinstance(number, int) and 0 <= number < 2**40 for number in numbers) or len(size) > 8:
        raise ImportFault(f"holds a tensor of impossible shape {tuple(size)}")
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    content = read(storage.key)
    count = 1 + offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count * storage.dtype.itemsize > len(content):
        raise ImportFault(f"holds a tensor of shape {tuple(size)}, which is larger than its {len(content)} bytes")
    # A stride of nothing would let a few bytes stand for any number of values.
    if math.prod(size) > count:
        raise ImportFault(f"holds a tensor of shape {tuple(size)} in {count} numbers")
    return torch.frombuffer(bytearray(content), dtype=storage.dtype, count=count).as_strided(size, stride, offset)


def load(file: Path, pick: Callable[[Any], Any] = lambda content: content) -> Any:
    """Return what a file of torch holds: containers, numbers and text; anything else as an ``Inert``.

    Of tensors only the one that ``pick`` returns is read, and returned; others are no more than ``Stored``.

    Raises:
        ImportFault: it is no such file, is damaged, or asks for what no honest file asks for.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _load(archive, pick)
    except ImportFault as fault:
        raise ImportFault(f"{file} {fault}") from fault
    except zipfile.BadZipFile as error:
        raise ImportFault(
            f"{file} is not a file of torch 1.6 or later ({error}); an older one must be saved again with a newer torch"
        ) from error
    except OSError as error:
        raise ImportFault(f"{file} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle makes its reader raise anything
        raise ImportFault(f"{file} is damaged ({type(error).__name__}: {error})") from error


def _load(archive: zipfile.ZipFile, pick: Callable[[Any], Any]) -> Any:
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ImportFault(f"holds {len(pickles)} pickles of torch, expected one: it is no file of torch.save")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ImportFault("is compressed, which torch never does; it was made by something else")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ImportFault("was saved on a computer of the other byte order; save it again on this kind")
    if archive.getinfo(pickles[0]).file_size > MOST_PICKLE:
        raise ImportFault("has a pickle of an absurd size")
    content = archive.read(pickles[0])
    _check_size(content)
    picked = pick(_Unpickler(io.BytesIO(content)).load())
    return _tensor(picked, lambda key: archive.read(f"{root}data/{key}")) if isinstance(picked, Stored) else picked


def _check_size(content: bytes) -> None:
    """Refuse a pickle that would take absurd room before it is obeyed."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        tuples += opcode.name.startswith("TUPLE")
        # The memory has room for all places below the one that is named; Python hashes nested tuples on its stack.
        if tuples > MOST_TUPLES or (opcode.name in MEMO and int(argument or 0) > MOST_OBJECTS):
            raise ImportFault("asks for an absurd number of objects")
