"""The manifest of a poisoned data set: what is known of it, and every file's checksum.

docs/artifact.md explains the fields; ``schemas/manifest.json`` is their JSON Schema.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.artifacts.files import ArtifactError, read_json, sha256

FORMAT = 2
FILE = "manifest.json"

Count = Annotated[int, Field(ge=0)]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""The name of a file of the artifact's own folder: nothing that leads out of it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DatasetNote(_Part):
    """The data set that was poisoned: its name, its spec with all defaults, the checksum of its images and labels."""

    name: str
    spec: dict[str, Any]
    checksum: Checksum


class AttackNote(_Part):
    """The attack: its name, its spec with all defaults, and where its noise started."""

    name: str
    spec: dict[str, Any]
    init: str


class Manifest(_Part):
    """Everything that is said of a poisoned data set."""

    format: Literal[2]
    name: str
    dataset: DatasetNote
    attack: AttackNote
    # The budget, in [0, 1] pixel range.
    epsilon: Annotated[float, Field(ge=0, le=1)]
    # What networks computed in while the noise was learnt.
    precision: str
    # The version of the numbers that the stage makes (engine/numerics.yaml).
    numerics: int
    granularity: Literal["sample", "class"]
    # How many augmented images the attack sent forwards and backwards.
    image_views: Count
    # How many images are released, and of what shape: channels, height, width.
    images: Annotated[int, Field(gt=0)]
    image_shape: tuple[Literal[3], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    class_names: tuple[str, ...]
    # How many of the released images the noise was added to.
    perturbed: Count
    # How many images of the data set are not released; left out where all are.
    withheld: Count | None = None
    # Differences between released and clean pixels, in grey levels.
    max_difference_levels: Count
    mean_difference_levels: Annotated[float, Field(ge=0)]
    # Every other file of the folder, with its SHA-256.
    files: dict[FileName, Checksum]


def check_manifest(content: dict[str, Any], folder: Path) -> None:
    """Check what a manifest says.

    Raises:
        ArtifactError: it is of another format, or lacks a field, or has one with a value that it cannot have.
    """
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise ArtifactError(f"{folder} has format {found!r}; this version reads format {FORMAT}: make it again")
    try:
        # As JSON: a strict model takes lists for tuples only there.
        Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ArtifactError("\n".join([f"{folder / FILE} is not a manifest:", *faults])) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a poison, and the checksums of all files.

    Raises:
        ArtifactError: the manifest is missing, of another format or damaged, or a file is missing or damaged.
    """
    manifest = read_json(folder / FILE)
    check_manifest(manifest, folder)
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; run `dvc checkout` or generate the poison again")
        if sha256(file) != expected:
            raise ArtifactError(
                f"{file} differs from the checksum in its manifest: it is damaged or was edited; "
                "run `dvc checkout --force` or generate the poison again"
            )
    return manifest
