"""CutMix: a learner trains on images with a box of another image in them, and on labels mixed by area.

Name: CutMix (supervised), Un-Mix at the level of regions (learners of two views)
Paper: Yun, Han, Oh, Chun, Choe & Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", ICCV 2019; Shen et al., "Un-Mix: Rethinking Image Mixtures for Unsupervised Visual Representation
    Learning", AAAI 2022.
Threat model: trusts labels, where it reads them, and no image as a whole: the poison of one image is cut by another's.
Official code: clovaai/CutMix-PyTorch; szq0214/Un-Mix.
Deviations: an image's partner is the one at the mirrored place of the batch, as in Un-Mix, where CutMix draws a
    permutation; labels are mixed by the area of the box that is left inside the image, as in Un-Mix, where the first
    official version keeps the drawn share. What mixup's card says of learners of two views holds here; a step that
    cuts no box is theirs without a defense.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from engine.protocols import Defense, DefenseContext, Victim
from engine.spec import DefenseSpec, Unit


class Spec(DefenseSpec):
    """CutMix."""

    kind: Literal["cutmix"]
    # One minus the box's area is drawn from Beta(alpha, alpha), once a batch. Paper: 1, which is uniform.
    alpha: Annotated[float, Field(ge=0.05)] = 1.0
    # How often a step cuts at all. Official code: 0.5 for CIFAR, 1 for ImageNet; Un-Mix always mixes.
    probability: Unit = 0.5


@dataclass(frozen=True)
class CutMix(Defense):
    """See the module."""

    spec: Spec

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        """Paste boxes into the learner's first view."""
        from engine.training.mixing import Mixed, cutmix

        return Mixed(victim, context, partial(cutmix, alpha=self.spec.alpha, probability=self.spec.probability))


def build(spec: Spec) -> CutMix:
    """Build the defense."""
    return CutMix(spec)
