"""AdvCL: SimCLR whose views are adversarial and high-frequency too, and which tells clusters of images apart.

Name: AdvCL
Paper: Fan, Liu, Chen, Zhang & Gan, "When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining
    to Finetuning?", NeurIPS 2021; He, Zha & Katabi, ICLR 2023, Table 8, row "Adversarial Training".
Threat model: reads no labels; trusts no pixel by more than epsilon: what the poison hides inside that ball, an
    adversary may undo. Trusts the clusters that an undefended encoder finds in the released images.
Official code: LijieFan/AdvCL.
Deviations: pseudo-labels are the k-means clusters of the learner's own encoder, trained before without a defense on the
    released images (or, where somebody has them, on their clean originals); officially they come with the code, made
    from CIFAR-10's clean images by a network that knows ImageNet. The whole loss has the learner's own factor, where
    officially the contrast alone is multiplied by temperature / 0.07; ``ce_weight`` holds their official balance
    whatever the factor. The learner's projector stays, without batch norm. Views that the adversary does not change are
    projected once a step, officially again at every step of the search, which comes to the same but for the running
    statistics of their batch norm. The encoder normalises its images, officially none are normalised. The radius
    follows the images' size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.plugins import module_of
from engine.protocols import Defense, DefenseContext, ImageSet, Victim
from engine.spec import DefenseSpec, Number, Positive

if TYPE_CHECKING:
    from engine.victimspec import VictimSpec


class Spec(DefenseSpec):
    """AdvCL; the defaults are the official code's for CIFAR-10."""

    kind: Literal["advcl"]
    epsilon: Annotated[Number, Field(gt=0, le=1)] = 8 / 255
    pgd_steps: Positive = 5
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.25
    # The frequencies that the high-frequency view lacks, in cycles per pixel. Official code: 8 in 32 pixels.
    radius_rel: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    # The clusters' weight beside the contrast. Official code: 0.2 beside the contrast times 0.5 / 0.07.
    ce_weight: Annotated[float, Field(ge=0)] = 0.028
    # One linear head each.
    clusters: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (2, 10, 50, 100, 500)
    # On which images the encoder was trained whose features are clustered.
    features: Literal["released", "clean"] = "released"
    # Which batch norm the encoder keeps: of adversarial views, as in the official evaluation, or of the normal ones.
    bn_set: Literal["adversarial", "normal"] = "adversarial"

    def victim_fault(self, victim: VictimSpec) -> str | None:
        """Take SimCLR alone, of whose loss AdvCL's is a form."""
        if isinstance(victim, module_of("victims", "simclr").Spec):
            return None
        return f"AdvCL is SimCLR with further views, and would put that loss in the place of {victim.kind}'s"


@dataclass(frozen=True)
class AdvCL(Defense):
    """See the module."""

    spec: Spec
    changes_dataset = True

    def on_dataset(self, images: ImageSet, context: DefenseContext) -> ImageSet:
        """Add the clusters of the images to their labels."""
        from engine.training.pseudo_labels import pseudo_labelled

        return pseudo_labelled(images, self.spec.clusters, features=self.spec.features, context=context)

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        """Give the learner its further views and heads."""
        from engine.training.defending import Adversary
        from engine.training.robust_contrast import Hardening, RobustContrast
        from engine.victimspec import ViewsSpec
        from engine.views import Views

        spec = self.spec
        adversary = Adversary(spec.epsilon, spec.step_size_rel * spec.epsilon, spec.pgd_steps)
        hardening = Hardening(adversary, spec.radius_rel, spec.ce_weight, spec.clusters, spec.bn_set)
        weak = ViewsSpec(preset="weak", size=victim.views[0].size)
        return RobustContrast(victim, context, Views(**weak.arguments()), hardening)


def build(spec: Spec) -> AdvCL:
    """Build the defense."""
    return AdvCL(spec)
