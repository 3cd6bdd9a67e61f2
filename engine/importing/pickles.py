"""Tensors in files that torch saved, read without running what else the files ask for.

A pickle is a program: it may name any function of any module and call it. Here it finds only tensors, their storages
and plain containers; every other name, such as the options that released checkpoints hold, becomes an inert stand-in.
Sizes are checked before anything is allocated.

Source: torch.serialization, the zip format of torch 1.6 and later: ``data.pkl``, and a file a storage below ``data/``.
"""

from __future__ import annotations

import io
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
MOST_PICKLE = 2**26
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


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    content: bytes


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, read: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(content))
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few things that a tensor is made of, or a stand-in."""
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        return type(str(name), (Inert,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a tensor names."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[2], str)):
            raise ImportFault("names something that is no storage")
        if not isinstance(pid[1], torch.dtype):
            raise ImportFault(f"holds a storage of the unknown type {pid[1]!r}")
        return _Storage(pid[1], self._read(pid[2]))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a tensor of a storage; sizes that reach beyond it are refused."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ImportFault("holds a tensor without a storage")
    if not all(isinstance(number, int) and 0 <= number < 2**40 for number in numbers) or len(size) > 8:
        raise ImportFault(f"holds a tensor of impossible shape {tuple(size)}")
    width = storage.dtype.itemsize
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if 0 in size:
        return torch.empty(size, dtype=storage.dtype)
    if (last + 1) * width > len(storage.content):
        raise ImportFault(
            f"holds a tensor of shape {tuple(size)}, which is larger than its {len(storage.content)} bytes"
        )
    whole = torch.frombuffer(bytearray(storage.content), dtype=storage.dtype, count=last + 1)
    # A stride of nothing would let a few bytes stand for any number of values.
    if torch.Size(size).numel() > len(whole):
        raise ImportFault(f"holds a tensor of shape {tuple(size)} in {len(whole)} numbers")
    return whole.as_strided(size, stride, offset).clone()


def _parameter(data: Any, *_: Any) -> Any:
    return data


def load(file: Path) -> Any:
    """Return what a file of torch holds: containers, numbers, text and tensors; anything else as an ``Inert``.

    Raises:
        ImportFault: it is no such file, is damaged, or asks for what no honest file asks for.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _load(archive)
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


def _load(archive: zipfile.ZipFile) -> Any:
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
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in MEMO and int(argument or 0) > MOST_OBJECTS:  # would make room for all places below
            raise ImportFault("asks for an absurd number of objects")
    return _Unpickler(content, lambda key: archive.read(f"{root}data/{key}")).load()
