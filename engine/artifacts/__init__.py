"""What stages hand to each other on disk: written whole or not at all, checked when read."""

from engine.artifacts.encoding import Encoded
from engine.artifacts.files import ArtifactError, atomic_directory, atomic_file
from engine.artifacts.manifest import read_manifest
from engine.artifacts.poison import (
    ReleasedPoison,
    encoded_images,
    read_images,
    read_levels,
    read_poison,
    read_some,
)
from engine.artifacts.writing import Part, row_groups, write_parts, write_poison

__all__ = [
    "ArtifactError",
    "Encoded",
    "Part",
    "ReleasedPoison",
    "atomic_directory",
    "atomic_file",
    "encoded_images",
    "read_images",
    "read_levels",
    "read_manifest",
    "read_poison",
    "read_some",
    "row_groups",
    "write_parts",
    "write_poison",
]
