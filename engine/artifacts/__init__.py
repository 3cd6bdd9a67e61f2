"""What stages hand to each other on disk: written whole or not at all, checked when read."""

from engine.artifacts.files import ArtifactError, atomic_directory, atomic_file
from engine.artifacts.poison import (
    ReleasedPoison,
    encoded_images,
    read_images,
    read_manifest,
    read_poison,
    read_some,
    write_poison,
)

__all__ = [
    "ArtifactError",
    "ReleasedPoison",
    "atomic_directory",
    "atomic_file",
    "encoded_images",
    "read_images",
    "read_manifest",
    "read_poison",
    "read_some",
    "write_poison",
]
