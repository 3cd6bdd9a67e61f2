"""Mixup: a learner trains on blends of two images, and on their labels blended alike.

Name: Mixup (supervised), Un-Mix at the level of whole images (learners of two views)
Paper: Zhang, Cisse, Dauphin & Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Shen et al.,
    "Un-Mix: Rethinking Image Mixtures for Unsupervised Visual Representation Learning", AAAI 2022.
Threat model: trusts labels, where it reads them, and no image on its own: no poisoned image is shown unmixed in the
    first view.
Official code: facebookresearch/mixup-cifar10; szq0214/Un-Mix.
Deviations: an image's partner is the one at the mirrored place of the batch, as in Un-Mix, where mixup draws a
    permutation. Un-Mix adds the loss of the unmixed views, which would teach the poison, and draws between blending
    and pasting at every step; here each is a defense of its own (cutmix). The first view is the mixture, which is
    MoCo's query, as in the official code; in symmetric MoCo the mixtures' keys enter the queue too. Each of the two
    losses is a forward pass of its own. SupCon, which Un-Mix does not treat, takes a mixture for its own image's
    class in the one loss and for its partner's in the other, as mixup's loss does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from engine.protocols import Defense, DefenseContext, Victim
from engine.spec import DefenseSpec


class Spec(DefenseSpec):
    """Mixup."""

    kind: Literal["mixup"]
    # An image's share is drawn from Beta(alpha, alpha), once a batch. Both official codes: 1, which is uniform.
    alpha: Annotated[float, Field(ge=0.05)] = 1.0


@dataclass(frozen=True)
class Mixup(Defense):
    """See the module."""

    spec: Spec

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        """Blend the learner's first view."""
        from engine.training.mixing import Mixed, mixup

        return Mixed(victim, context, partial(mixup, alpha=self.spec.alpha))


def build(spec: Spec) -> Mixup:
    """Build the defense."""
    return Mixup(spec)
