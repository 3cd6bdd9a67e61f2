"""What the numbers were measured on and with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("torch", "torchvision", "pillow", "numpy", "kornia", "lightly")


def describe() -> dict[str, str | int | None]:
    """Return the processor, the versions of what is compared, and the day."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **versions,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    fields = (line.split(":", 1) for line in reversed(lines) if ":" in line)  # reversed: the first core's win
    said = {name.strip(): value.strip() for name, value in fields}
    if "model name" not in said:
        return platform.processor() or platform.machine()
    # A virtual machine may name its maker alone; family and model tell processors of one maker apart.
    widest = next((name for name in ("avx512f", "avx2") if name in said.get("flags", "").split()), "no AVX2")
    return f"{said['model name']}, family {said.get('cpu family')}, model {said.get('model')}, {widest}"
