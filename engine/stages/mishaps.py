"""What may befall a stage while it runs, turned into messages that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import atomic_file, write_json
from engine.errors import EngineError
from engine.processes import is_first
from engine.protocols import Job

if TYPE_CHECKING:
    from engine.machine import Machine
    from engine.training.divergence import Diverged

DIVERGED = Path(".work/diverged")
ALLOCATOR = "can't allocate memory"
"""What torch's allocator of a CPU says; it has no exception of its own."""


class OutOfMemory(EngineError):
    """A stage needs more memory than there is."""


def do(job: Job, machine: Machine) -> object:
    """Do a job's work in this process.

    Raises:
        OutOfMemory: there is too little memory.
        EngineError: see the stage; where a loss is no finite number, the state that made it is saved first.
    """
    from engine.training.divergence import Diverged

    try:
        return job.work(machine)
    except Diverged as error:
        raise EngineError(f"{error}; the state to inspect is in {_keep(job, error)}") from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{job.stage} {job.key} ran out of memory on {machine.device} ({_first_line(error)}); {_advice(job)}"
        ) from error


def _keep(job: Job, error: Diverged) -> Path:
    """Save what diverged: tensors, and beside them a JSON file of plain values; return the file of the tensors."""
    import torch
    from safetensors.torch import save_file

    file = DIVERGED / f"{job.stage}-{job.dataset}-{job.key}.safetensors"
    if is_first():
        with atomic_file(file) as partial:
            save_file(
                {
                    name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                    for name, tensor in error.tensors.items()
                },
                partial,
            )
        seed = job.about.get("seed", _spec(job, "attack").get("seed"))
        write_json(file.with_suffix(".json"), {"message": str(error), "seed": seed, **error.about})
    return file


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or ALLOCATOR in str(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _advice(job: Job) -> str:
    """Say which field to lower: what a step holds, then what stays on the device."""
    fields = [
        f"{key} in specs/{group}/{job.about[entry]['name']}.yaml"
        for entry, group, key in (
            ("attack", "attacks", "surrogate.batch_size"),
            ("probe", "protocols", "linear.batch_size"),
            ("victim", "victims", "batch_size"),
        )
        if entry in job.about and (entry != "attack" or "surrogate" in _spec(job, entry))
    ]
    kept = "the layout's resident_gb" if job.stage == "pretrain" else ""
    lower = ", or ".join([*fields[:1], *filter(None, [kept])])
    return f"lower {lower}, or use a layout with more memory" if lower else "use a layout with more memory"


def _spec(job: Job, entry: str) -> dict[str, Any]:
    spec: dict[str, Any] = job.about.get(entry, {}).get("spec", {})
    return spec
