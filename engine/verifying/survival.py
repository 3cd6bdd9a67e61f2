"""How much of a perturbation, and of what it does to the surrogate's loss, is left after images were saved again.

Shapes: n images, at most ``MOST``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from engine import plugins
from engine.artifacts import ArtifactError, encoded_images
from engine.artifacts.encoding import decode
from engine.artifacts.writing import SURROGATE
from engine.protocols import ImageSet, Source, Split, Victim
from engine.randomness import stream
from engine.specfiles import model_of
from engine.verifying.reencoding import CHANGES, change

if TYPE_CHECKING:
    from torch import Tensor

MOST = 1_000
"""Images that are looked at."""
DRAWS = 4
"""Times that views of them are drawn."""
ERRORS = 3
"""Standard errors that a gap must be away from nothing to be one."""


@dataclass(frozen=True)
class Survival:
    """What one way of changing images leaves.

    ``norm``: the Euclidean length of what then distinguishes released from clean images, against before: whatever it
    is. ``aligned``: how much of the perturbation itself is in it, 1 where all of it is; None where pixels moved.
    ``loss_gap``: how much lower the surrogate's loss is on the released images than on the clean ones, and its standard
    error over batches and draws of views; ``effect``: the gap against that before. None where the poison was made
    without a network, or where its loss does not tell released images from clean ones.
    """

    change: str
    norm: float
    aligned: float | None
    loss_gap: tuple[float, float] | None
    effect: float | None

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def survive(folder: Path, manifest: dict[str, Any], split: Split) -> list[Survival]:
    """Change released and clean images alike, and measure what still distinguishes them; first, unchanged ones.

    Raises:
        ArtifactError: no image is perturbed.
    """
    released, clean = _some(folder, split)
    surrogate = _surrogate(folder, manifest)
    delta = _difference(released, clean)
    before = surrogate.gap(released, clean) if surrogate else None
    tells = before is not None and abs(before[0]) > ERRORS * before[1]
    found = [Survival("unchanged", 1.0, 1.0, before, 1.0 if tells else None)]
    for name, how in CHANGES.items():
        after = tuple(
            ImageSet(change(images.images_u8, how), images.labels, images.class_names) for images in (released, clean)
        )
        left = _difference(*after)
        gap = surrogate.gap(*after) if surrogate else None
        moved = name.startswith("cropped")
        found.append(
            Survival(
                name,
                round((left.norm(dim=1).mean() / delta.norm(dim=1).mean()).item(), 4),
                None if moved else round(((left * delta).sum() / delta.square().sum()).item(), 4),
                gap,
                round(gap[0] / before[0], 4) if gap and before and tells else None,
            )
        )
    return found


def _difference(released: ImageSet, clean: ImageSet) -> Tensor:
    return (released.images_u8.float() - clean.images_u8.float()).flatten(1)


def _some(folder: Path, split: Split) -> tuple[ImageSet, ImageSet]:
    """Draw perturbed images, and their originals."""
    import torch

    places, flags = [], []
    for part in encoded_images(folder):
        places += part.places
        flags += part.perturbed
    candidates = torch.tensor(flags).nonzero().squeeze(1)
    if not len(candidates):
        raise ArtifactError(f"{folder} perturbs no image: there is nothing that could survive")
    chosen = candidates[torch.randperm(len(candidates), generator=stream(0, "survival", "images"))[:MOST]]
    wanted, first, kept = set(chosen.tolist()), 0, []
    for part in encoded_images(folder):
        here = [row for row in range(len(part)) if first + row in wanted]
        if here:
            kept.append((decode([part.png[row] for row in here]), [part.places[row] for row in here]))
        first += len(part)
    clean = split.train[torch.tensor([place for _, rows in kept for place in rows])]
    return ImageSet(torch.cat([images for images, _ in kept]), clean.labels, clean.class_names), clean


def _surrogate(folder: Path, manifest: dict[str, Any]) -> _Surrogate | None:
    """Return the network that the noise was learnt on, or None where it was learnt on none."""
    from safetensors.torch import load_file

    if SURROGATE not in manifest["files"]:
        return None
    learner = _spec("attacks", manifest["attack"]["spec"]).learner
    dataset = _spec("datasets", manifest["dataset"]["spec"])
    source = Source(dataset.mean, dataset.std, len(manifest["class_names"]))
    victim: Victim = plugins.build("victims", learner, source=source, generator=stream(0, "survival", "weights"))
    victim.network.load_state_dict(load_file(folder / SURROGATE))
    victim.network.eval()
    return _Surrogate(victim, learner.batch_size)


def _spec(group: str, values: dict[str, Any]) -> Any:
    return TypeAdapter(model_of(group)).validate_json(json.dumps(values))  # a strict model takes lists only from JSON


@dataclass(frozen=True)
class _Surrogate:
    victim: Victim
    batch_size: int

    def gap(self, released: ImageSet, clean: ImageSet) -> tuple[float, float]:
        """Return how much lower the loss of released images is, in the same views, on average; and its error."""
        differences = self._losses(clean) - self._losses(released)
        error = differences.std() / math.sqrt(len(differences))
        return round(differences.mean().item(), 8), round(error.item(), 8)

    def _losses(self, images: ImageSet) -> Tensor:
        """Return the loss of every batch under every draw of views: float64 [batches * draws]."""
        import torch

        draws, losses = stream(0, "survival", "views"), []
        size = min(self.batch_size, len(images))
        with torch.no_grad():
            for _ in range(DRAWS):
                for start in range(0, len(images) - size + 1, size):
                    batch = images[slice(start, start + size)]
                    pixels = batch.images_u8.float() / 255
                    views = [view(draws, pixels) for view in self.victim.views]
                    losses.append(self.victim.loss(views, batch.labels))
        return torch.stack(losses).double()
