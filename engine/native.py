"""C code that is compiled on first use with the C compiler of the machine, kept in the user's cache, and called.

Where there is no compiler, what the code does is done by torch's own operations, more slowly; that is said once.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


@functools.cache
def library(source: Path, what: str) -> ctypes.CDLL | None:
    """Return the compiled code; None where it cannot be made, with a warning of ``what``, a plural, is slower then."""
    compiler = compiler_command()
    try:
        if not compiler:
            raise OSError("no C compiler")
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except OSError as error:
        warnings.warn(f"{error}: {what} on the CPU run on torch alone, more slowly", RuntimeWarning, stacklevel=3)
        return None


def compiler_command() -> list[str]:
    """Return the command of a C compiler; as for make, CC may hold a launcher or options."""
    found = (shutil.which(name) for name in ("cc", "gcc", "clang"))
    return shlex.split(os.environ.get("CC", "")) or [path for path in found if path][:1]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "contrastive-poisoning-engine"


def _cpu_flags() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compiled(source: Path, compiler: list[str]) -> Path:
    """Return the shared library from the user's cache, compiled where it is not there yet.

    Raises:
        OSError: it cannot be compiled, or not be kept.
    """
    # A cache on a shared home serves processors of many kinds.
    processor = platform.processor() + _cpu_flags()
    key = hashlib.sha256("\n".join((source.read_text(), *FLAGS, *compiler, processor)).encode()).hexdigest()[:16]
    file = _cache() / f"{source.stem}-{key}.so"
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        command = [*compiler, *FLAGS, str(source), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{shlex.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
        made.replace(file)  # at once: other processes may be compiling the same
    return file


def in_threads(work: Callable[[int, int], int], count: int) -> None:
    """Call compiled work on [0, count), cut over torch's threads; ctypes lets go of the interpreter's lock.

    Raises:
        MemoryError: a call did not return zero.
    """
    threads = max(min(torch.get_num_threads(), count), 1)
    spans = itertools.pairwise(count * thread // threads for thread in range(threads + 1))
    mapped = map if threads == 1 else _pool(threads).map
    if any(mapped(lambda span: work(*span), spans)):
        raise MemoryError(f"no memory for compiled work on {count} images")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compiled")
