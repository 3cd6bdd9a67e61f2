"""UEraser: a learner trains on the worst of several draws of an augmentation too strong for shortcuts.

Name: UEraser (Max; Lite with one draw)
Paper: Qin, Gao, Zhao, Ye & Xu, "Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example
    Attacks", ICCV workshop (AROW) 2023.
Threat model: trusts labels, where the learner reads them; takes any pattern for poison that plasma brightness and
    contrast, shuffled channels and an operation on colours wash out, and for an image's worst draw the most.
Official code: lafeat/ueraser.
Deviations: the draw is chosen in a search without a gradient, and the chosen draws then share a batch, hence its
    statistics; officially all draws carry a graph and the largest losses are averaged. The choice lasts the whole
    training (UEraser-Max), where plain UEraser ends it after 50 or 60 of 200 epochs. Learners without a classifier,
    which the paper has none of, have one loss a batch: all its views take the draw of the largest. The search moves
    batch norm's running statistics. Plasma is made by the diamond-square algorithm with kornia's mixture of mean and
    noise, not by its code, which starts from other first squares. Of kornia's TrivialAugment the operations on colours
    are kept (brightness, contrast, solarize, posterize to 1 to 4 bits, automatic contrast) and saturation is added;
    equalization, sharpness and geometry are left out, for views crop, shift and flip already. Every image draws its own
    operation, where kornia draws one a batch. Unverified: the published accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.protocols import Defense, DefenseContext, Victim
from engine.spec import DefenseSpec, Positive


class Spec(DefenseSpec):
    """UEraser."""

    kind: Literal["ueraser"]
    # How many draws the worst is chosen from. Official code: 5; UEraser-Lite: 1, without a search.
    repeats: Positive = 5


@dataclass(frozen=True)
class UEraser(Defense):
    """See the module."""

    spec: Spec

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        """Augment the learner's views before its loss."""
        from engine.training.hardening import WorstOfSeveral
        from engine.views.erasing import erase

        return WorstOfSeveral(victim, context, erase, self.spec.repeats)


def build(spec: Spec) -> UEraser:
    """Build the defense."""
    return UEraser(spec)
