"""What the tests of several attacks share: images, what an attack is given, and a learner of known gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.backbones import resnet18
from engine.journal import Journal
from engine.machine import Machine
from engine.protocols import AttackContext, Gradient, ImageSet, Source, Victim
from engine.randomness import stream
from engine.victims import supervised
from engine.victimspec import ViewsSpec
from engine.views import Views

SIZE = 8


class LinearClassifier(Victim):
    """Logits that are linear in the single, unaugmented view; it records what it is given.

    Shapes: weights [K, 3 * 8 * 8].
    """

    def __init__(self, weights: Tensor) -> None:
        head = nn.Linear(weights.shape[1], len(weights), bias=False)
        head.weight.data = weights.clone()
        self.network = nn.ModuleDict({"encoder": nn.Flatten(), "classifier": head})
        self.views = (Views(SIZE, None, (1.0, 1.0), 0.0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0),)
        self.seen: list[tuple[Tensor, Tensor, bool]] = []

    @property
    def encoder(self) -> nn.Module:
        return self.network["encoder"]

    @property
    def classifier(self) -> nn.Module:
        return self.network["classifier"]

    @property
    def weights(self) -> Tensor:
        return self.classifier.weight.detach()

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        self.seen.append((views[0].detach(), labels, self.network.training))
        return cross_entropy(self.classifier(self.encoder(views[0])), labels)


@pytest.fixture
def classifier() -> Callable[[Tensor], LinearClassifier]:
    return LinearClassifier


@pytest.fixture
def opposed() -> LinearClassifier:
    """Three classes, the last of which is opposed to the others; the logits are so small that all are as likely."""
    pattern = torch.randn(3 * SIZE * SIZE, generator=stream(0, "pattern")).sign() * 1e-4
    return LinearClassifier(torch.stack([pattern, pattern, -2 * pattern]))


@pytest.fixture
def replace_surrogate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Victim], None]:
    """Let an attack's module build a given learner in place of its surrogate."""

    def replace(module: Any, victim: Victim) -> None:
        def build(group: str, spec: Any, **context: Any) -> Victim:
            victim.network.requires_grad_(True)  # as a fresh one; the attack before froze it
            return victim

        monkeypatch.setattr(module, "build_plugin", build)

    return replace


@pytest.fixture
def image_set() -> ImageSet:
    """Ten images of three classes, away from black and white, so that the image clip hides no noise."""
    images = torch.randint(60, 190, (10, 3, SIZE, SIZE), generator=stream(0, "images"), dtype=torch.uint8)
    return ImageSet(images, torch.arange(10) % 3, ("a", "b", "c"))


@pytest.fixture
def surrogate() -> Callable[..., supervised.Spec]:
    """A tiny supervised surrogate that hardly moves."""

    def make(**changes: Any) -> supervised.Spec:
        backbone = resnet18.Spec(kind="resnet18", width=4, stages=(1,))
        values = {"batch_size": 4, "epochs": 2, "lr": 1e-9, "views": ViewsSpec(preset="none", size=SIZE)}
        return supervised.Spec(kind="supervised", backbone=backbone, **(values | changes))

    return make


@pytest.fixture
def context() -> Callable[..., AttackContext]:
    def make(init: Any = "zero", perturbed: Tensor | None = None, reports: list | None = None) -> AttackContext:
        return AttackContext(
            source=Source(mean=(0.5,) * 3, std=(0.25,) * 3, num_classes=3),
            init=init,
            perturbed=torch.ones(10, dtype=torch.bool) if perturbed is None else perturbed,
            machine=Machine.of("cpu", "fp32"),
            progress=lambda *report: None if reports is None else reports.append(report),
            journal=Journal(),
        )

    return make
