"""A pretrained encoder as an artifact: weights, and all that is needed to build the network again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import ArtifactError, atomic_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


def write_encoder(target: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write weights and their description atomically; the same inputs give the same bytes."""
    from safetensors.torch import save_file

    # One metadata key: safetensors writes several in an order that changes from run to run.
    metadata = {"engine": json.dumps({"format": FORMAT, **about}, sort_keys=True)}
    with atomic_file(target) as partial:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, partial, metadata=metadata)


def read_encoder(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and their description.

    Raises:
        ArtifactError: no such file, not safetensors, or another format.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ArtifactError(f"{file} does not exist; run `dvc repro` or `engine pretrain` to make it")
    try:
        with safe_open(file, framework="pt") as archive:
            about = json.loads((archive.metadata() or {}).get("engine", "{}"))
            state = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  not a dict
    except SafetensorError as error:
        raise ArtifactError(f"{file} is damaged ({error}); remove it and run `dvc repro`") from error
    if about.get("format") != FORMAT:
        raise ArtifactError(f"{file} has format {about.get('format')!r}; this version reads format {FORMAT}")
    return state, about
