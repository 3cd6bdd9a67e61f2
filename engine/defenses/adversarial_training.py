"""Adversarial training: a supervised learner trains on adversarial examples of itself, made anew at every step.

Name: Adversarial training (PGD)
Paper: Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
    ICLR 2018.
Threat model: trusts no pixel by more than epsilon: what the poison hides inside that ball, an adversary may undo.
    Labels are trusted.
Official code: MadryLab/cifar10_challenge (10 steps of 2/255, epsilon 8/255, random start).
Deviations: for learners with a classifier alone, which gives an adversary a decision to change; contrastive learners
    have AdvCL. Adversarial examples are made of augmented views; the network is in training mode meanwhile, as in the
    official code, so that batch norm's running statistics follow the images of every step of the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Defense, DefenseContext, Victim
from engine.spec import DefenseSpec, Number, Positive

if TYPE_CHECKING:
    from engine.victimspec import VictimSpec


class Spec(DefenseSpec):
    """Adversarial training; the defaults are the official code's for CIFAR-10 (the paper: 7 steps)."""

    kind: Literal["adversarial_training"]
    epsilon: Annotated[Number, Field(gt=0, le=1)] = 8 / 255
    pgd_steps: Positive = 10
    step_size_rel: Annotated[float, Field(gt=0, le=2)] = 0.25

    def victim_fault(self, victim: VictimSpec) -> str | None:
        """Take learners with a classifier."""
        if victim.classifies:
            return None
        return (
            f"{victim.kind} learns no classes, which adversarial examples could leave; contrastive learners have AdvCL"
        )


@dataclass(frozen=True)
class AdversarialTraining(Defense):
    """See the module."""

    spec: Spec

    def on_objective(self, victim: Victim, context: DefenseContext) -> Victim:
        """Put an adversary before the learner's loss."""
        from engine.training.defending import Adversary
        from engine.training.hardening import AdversariallyTrained

        spec = self.spec
        adversary = Adversary(spec.epsilon, spec.step_size_rel * spec.epsilon, spec.pgd_steps)
        return AdversariallyTrained(victim, context, adversary)


def build(spec: Spec) -> AdversarialTraining:
    """Build the defense."""
    return AdversarialTraining(spec)
