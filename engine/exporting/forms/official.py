"""The perturbation as the official code of Contrastive Poisoning reads it: one tensor, in units of the budget.

float32 [N, 3, H, W], or [classes, 3, H, W] for class-wise noise; that code is given the budget as ``--delta_weight``.
It adds the noise to an image in floats, clips, and cuts fractions off, so that some pixels come out a grey level lower
than in the artifact, and the budget may be missed by one.

Source: kaiwenzha/contrastive-poisoning, main.py, set_model (a bare tensor, or ``["model"]["delta"]``), and datasets.py,
    DatasetPoisoning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.artifacts import ArtifactError, read_levels
from engine.artifacts.files import atomic_file


def write(folder: Path, manifest: dict[str, Any], target: Path) -> None:
    """Write the tensor.

    Raises:
        ArtifactError: the poison withholds images, or, class-wise, leaves some clean: the tensor cannot say which.
    """
    import torch

    if manifest.get("withheld"):
        raise ArtifactError(f"{folder} withholds images, which a perturbation cannot say; export another form")
    if manifest["granularity"] == "class" and manifest["perturbed"] < manifest["images"]:
        raise ArtifactError(
            f"{folder} leaves images clean, which a perturbation of classes cannot say; export another form"
        )
    levels = torch.cat(list(read_levels(folder))).float()
    epsilon = manifest["epsilon"]
    # Into an open file: torch writes a path's name into what it saves there.
    with atomic_file(target) as partial, partial.open("wb") as stream:
        torch.save(levels / (255 * epsilon) if epsilon else levels, stream)
