"""How a stage's command is started somewhere else, and how what it makes there comes into place.

A launcher starts the same command again, with ``ENGINE_INSIDE`` set: that process does the work. What it writes may
go below another folder first (``ENGINE_OUTPUT_ROOT``), from where ``publish`` moves it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.artifacts.files import OUTPUT_ROOT
from engine.errors import EngineError

__all__ = [
    "FAULT",
    "INSIDE",
    "OUTPUT_ROOT",
    "JobFailed",
    "inside",
    "is_inside",
    "leave_fault",
    "publish",
    "torchrun_command",
]

INSIDE = "ENGINE_INSIDE"
FAULT = "ENGINE_FAULT"
"""A file into which a process writes why it failed, where somebody can mend that: nobody starts it again then."""


class JobFailed(EngineError):
    """A stage that ran somewhere else did not do its work."""


def is_inside() -> bool:
    """Say whether this process is the one that must do the work itself."""
    return os.environ.get(INSIDE) == "1"


def inside(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a process that must do the work itself."""
    return {**environment, INSIDE: "1"}


def leave_fault(message: str) -> bool:
    """Tell the launcher of this process why it failed; say whether there is one, which then says it, once.

    Several processes may fail at once, and the launcher reads as soon as there is a file: it is whole from the start.
    """
    if not (place := os.environ.get(FAULT)):
        return False
    partial = Path(f"{place}.{os.getpid()}")
    partial.write_text(message)
    partial.replace(place)
    return True


def torchrun_command(
    arguments: Iterable[str], *, devices_per_node: int, restarts: int = 0, rendezvous: Iterable[str] = ("--standalone",)
) -> list[str]:
    """Return the command that runs an interpreter's arguments in several processes of a node.

    ``rendezvous`` says where the nodes meet: nowhere, by default, for there is one.
    """
    return [
        sys.executable,
        *("-m", "torch.distributed.run"),
        f"--nproc-per-node={devices_per_node}",
        f"--max-restarts={restarts}",
        *rendezvous,
        *arguments,
    ]


def publish(outs: Iterable[Path], root: Path) -> None:
    """Move what a job made below ``root`` to where it belongs; what is no longer there was moved before.

    Raises:
        JobFailed: something is neither below the root nor in its place.
    """
    for out in outs:
        made = root / out
        if made.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.is_dir():
                shutil.rmtree(out)
            made.replace(out)
        elif not out.exists():
            raise JobFailed(f"the job ended well but did not make {out}; remove {root} and run the stage again")
