"""Imported: a poison that others released, checked against the clean images and taken as it is.

Name: Imported
Paper: that of the poison.
Threat model: that of the poison.
Official code: none; ``engine import`` writes its specs.
Deviations: released images are taken to the bit. Of released noise whole grey levels are taken, and added as every
    attack's noise is: rounded, clipped, inside the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import AttackContext, ImageSet, Poison
from engine.spec import AttackSpec, DataPath


class Spec(AttackSpec):
    """Where the released poison lies, and how it is read."""

    draws: ClassVar[bool] = False

    kind: Literal["imported"]
    path: DataPath
    layout: Literal["imagefolder", "npz", "official", "tensor", "webdataset"]
    # Which clean image each released one was made of: that at its place, or the nearest one.
    match: Literal["index", "nearest"] = "index"
    # Whether images may be missing; they are then not released.
    partial: bool = False
    # Of the file, or of the folder's files and their names: another content is another poison.
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Imported:
    """See the module."""

    spec: Spec

    def __call__(self, images: ImageSet, context: AttackContext) -> Poison:
        """Read it, and match it with the images.

        Raises:
            ImportFault: it is not there, is damaged or another one, or does not fit the images or the budget.
        """
        import torch

        from engine.images.presence import data_root
        from engine.importing import ImportFault, fingerprint, poison_of, read

        source = data_root() / self.spec.path
        if (found := fingerprint(source)) != self.spec.sha256:
            raise ImportFault(
                f"{source} has another content than when it was imported (sha256 {found}); import it again"
            )
        clean = images.to(torch.device("cpu"))
        released = read(source, self.spec.layout, clean)
        spec = self.spec
        return poison_of(released, clean, epsilon=spec.epsilon, match=spec.match, partial=spec.partial)


def build(spec: Spec) -> Imported:
    """Build the attack."""
    return Imported(spec)
