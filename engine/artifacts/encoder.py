"""A pretrained encoder as an artifact: weights, and all that is needed to build the network again.

A learner that trained a classifier with its encoder leaves that one's weights beside them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.artifacts.files import ArtifactError, atomic_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
CLASSIFIER = "classifier."
"""What the names of a classifier's weights open with; no encoder has a part of that name."""
CHECKSUM = "sha256"
"""Where the description holds the checksum of the weights and of itself."""


def write_encoder(
    target: Path, state: dict[str, Tensor], about: dict[str, Any], classifier: dict[str, Tensor] | None = None
) -> None:
    """Write weights and their description atomically; the same inputs give the same bytes.

    ``classifier`` holds the weights of the learner's own classifier, where it has one.
    """
    from safetensors.torch import save_file

    weights = state | {f"{CLASSIFIER}{name}": tensor for name, tensor in (classifier or {}).items()}
    # One metadata key: safetensors writes several in an order that changes from run to run.
    weights = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    about = {"format": FORMAT, **about}
    metadata = {"engine": json.dumps({**about, CHECKSUM: _checksum(weights, about)}, sort_keys=True)}
    with atomic_file(target) as partial:
        save_file(weights, partial, metadata=metadata)


def _checksum(weights: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Return the checksum of weights and their description, in hexadecimal."""
    import torch

    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_encoder(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read an encoder's weights and their description.

    Raises:
        ArtifactError: no such file, not safetensors, another format, or another checksum.
    """
    weights, about = _read(file)
    return {name: tensor for name, tensor in weights.items() if not name.startswith(CLASSIFIER)}, about


def read_classifier(file: Path) -> dict[str, Tensor] | None:
    """Read the weights of the learner's own classifier, or None where it has none.

    Raises:
        ArtifactError: see ``read_encoder``.
    """
    weights, _ = _read(file)
    found = {name: tensor for name, tensor in weights.items() if name.startswith(CLASSIFIER)}
    return {name.removeprefix(CLASSIFIER): tensor for name, tensor in found.items()} or None


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ArtifactError(f"{file} does not exist; run `dvc repro` or `engine pretrain` to make it")
    try:
        with safe_open(file, framework="pt") as archive:
            about = json.loads((archive.metadata() or {}).get("engine", "{}"))
            weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{file} is damaged ({error}); remove it and run `dvc repro`") from error
    if about.get("format") != FORMAT:
        raise ArtifactError(f"{file} has format {about.get('format')!r}; this version reads format {FORMAT}")
    expected = about.pop(CHECKSUM, None)  # encoders of earlier versions have none
    if expected is not None and expected != _checksum(weights, about):
        raise ArtifactError(f"{file} is damaged (its checksum is another); remove it and run `dvc repro`")
    return weights, about
