"""What defenses do to pixels: released images under each of them.

Shapes: n images [n, 3, H, W], uint8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine import plugins
from engine.protocols import Defense
from engine.randomness import stream
from engine.reporting.pictures import SHEET_WIDTH, image_panel, pictures
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.sheet import Sheet, draw_sheet, room_for

UNDEFENDED = "as released"
"""Names the images themselves where no defense of the study leaves them as they are."""


@dataclass(frozen=True)
class Defended:
    """Released images of one poison, one per class, under each defense that changes them.

    Shapes: each of rows [n, H, W, 3].
    ``left_out`` names the defenses that change no image before the objective sees it.
    """

    poison: str
    classes: tuple[str, ...]
    rows: dict[str, np.ndarray]
    left_out: tuple[str, ...]
    thinning: str

    @property
    def note(self) -> str:
        """Say which defenses have no row, and why."""
        names = ", ".join(self.left_out)
        return f"Without a row, since they change no image before the objective: {names}." if names else ""


def defended(results: Results) -> Defended | None:
    """Show a study's defenses in its order; None where there is one alone, no poison, or no change of an image."""
    facts = _shown_poison(results)
    shown = pictures(facts) if facts else None
    if facts is None or facts.preview is None or shown is None or len(results.defenses) == 1:
        return None
    released = facts.preview["poisoned"][: len(shown.classes)]
    found = {
        name: released if name == results.undefended else change_images(plugins.build("defenses", spec), released, name)
        for name, spec in results.defenses.items()
    }
    if all(images is None for name, images in found.items() if name != results.undefended):
        return None
    whole = {UNDEFENDED: released, **found} if results.undefended is None else found
    rows = {
        name: images.transpose(0, 2, 3, 1)[:, :: shown.stride, :: shown.stride]
        for name, images in whole.items()
        if images is not None
    }
    left_out = tuple(name for name, images in found.items() if images is None)
    return Defended(facts.name, shown.classes, rows, left_out, shown.thinning)


def _shown_poison(results: Results) -> PoisonFacts | None:
    """Return the first attack that is there, or else the first poison that is."""
    there = [facts for facts in results.poisons.values() if facts.preview is not None]
    return next((facts for facts in there if facts.is_attack), there[0] if there else None)


def change_images(defense: Defense, images_u8: np.ndarray, name: str) -> np.ndarray | None:
    """Return images as the objective sees them under a defense with a name, or None where it sees them unchanged.

    A view is the image itself, so that the position of a change does not matter.
    """
    import torch

    from engine.training.defending import ImageDefense

    images, draws = torch.from_numpy(images_u8).float() / 255, stream(0, "report", name)
    # on_dataset may train a network; a change of pixels is the same function wherever it stands.
    if isinstance(defense, ImageDefense):
        changed = defense.transform(images, draws)
    else:
        changed = defense.on_view(lambda batch: batch, defense.on_batch(images, draws), draws)
        if torch.equal(changed, images):
            return None
    eight_bit: np.ndarray = (changed * 255).round().to(torch.uint8).numpy()
    return eight_bit


def draw_defended(shown: Defended) -> Sheet:
    """Draw images under defenses: a row a defense, a column an image."""
    title = f"{shown.poison}: one released image per class{shown.thinning}"
    panel = image_panel(title, shown.rows, shown.classes, left=room_for(shown.rows), foot=shown.note)
    return draw_sheet([panel], title="Images under each defense", columns=1, width=SHEET_WIDTH)
