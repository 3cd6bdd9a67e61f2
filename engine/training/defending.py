"""What defenses are made of: a change of pixels at a place in the chain, and a learner around a learner.

Shapes: B images of a batch, C channels, H x W pixels, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engine.perturbation import descend_linf
from engine.processes import own, world
from engine.protocols import Defense, DefenseContext, Gradient, ImageSet, Victim
from engine.spec import Position
from engine.transfer import to_device

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""Change images [B, C, H, W] in [0, 1]; every draw comes from the CPU generator, and the result stays in [0, 1]."""

CHUNK = 256  # images that on_dataset changes at a time; a draw belongs to a chunk, so that the results depend on it


@dataclass(frozen=True)
class ImageDefense(Defense):
    """A change of pixels at a position of the chain; see ``ImageDefenseSpec``."""

    transform: Transform
    position: Position

    @property
    def changes_dataset(self) -> bool:  # type: ignore[override]
        """Whether the position is the data set."""
        return self.position == "dataset"

    @property
    def changes_pixels(self) -> bool:  # type: ignore[override]
        """Whether the position is within a step."""
        return self.position != "dataset"

    def on_dataset(self, images: ImageSet, context: DefenseContext) -> ImageSet:
        """Change all images once and round them to eight bits, if that is the position."""
        if not self.changes_dataset:
            return images
        changed = torch.empty_like(images.images_u8)
        for start in range(0, len(images), CHUNK):
            rows = slice(start, start + CHUNK)
            pixels = self.transform(images.images_u8[rows].float() / 255, context.generator)
            changed[rows] = (pixels * 255).round().to(torch.uint8)
        return replace(images, images_u8=changed)

    def on_batch(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Change a step's images, if that is the position."""
        return self.transform(images_BCHW, generator) if self.position == "batch" else images_BCHW

    def on_view(self, draw: Callable[[Tensor], Tensor], images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a view and change it before or after, if that is the position."""
        if self.position == "before_view":
            return draw(self.transform(images_BCHW, generator))
        if self.position == "after_view":
            return self.transform(draw(images_BCHW), generator)
        return draw(images_BCHW)


class Defended(Victim):
    """A learner around another one: the same network, views and encoder, another loss."""

    def __init__(self, victim: Victim, context: DefenseContext) -> None:
        self.victim, self.context = victim, context
        self.network, self.views = victim.network, victim.views

    @property
    def encoder(self) -> nn.Module:
        """The inner learner's encoder."""
        return self.victim.encoder

    @property
    def classifier(self) -> nn.Module | None:
        """The inner learner's classifier."""
        return self.victim.classifier

    def embed(self, view: Tensor) -> Tensor:
        """Return the inner learner's embeddings."""
        return self.victim.embed(view)

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        """Return the inner learner's loss."""
        return self.victim.loss(views, labels, gradient=gradient)

    def after_step(self) -> None:
        """Move what the inner learner moves."""
        self.victim.after_step()


@dataclass(frozen=True)
class Adversary:
    """Projected gradient ascent: the strongest change of an image that a loss knows inside a ball.

    Units: epsilon and step_size in [0, 1] pixel range.
    Source: Madry et al. 2018, eq. 1.
    """

    epsilon: float
    step_size: float
    steps: int

    def __call__(
        self, images_BCHW: Tensor, loss: Callable[[Tensor], Tensor], context: DefenseContext, *, batches: int = 1
    ) -> Tensor:
        """Return adversarial images [B, C, H, W] in [0, 1], from a uniform start inside the ball.

        The loss is a scalar of images; no gradient of any weight is left behind. The images may be several
        ``batches``, one behind another.
        """
        images = images_BCHW.unflatten(0, (batches, -1))
        shape = batches, world() * images.shape[1], *images.shape[2:]
        start = torch.empty(shape).uniform_(-self.epsilon, self.epsilon, generator=context.generator)
        delta = to_device(own(start.transpose(0, 1)).transpose(0, 1).flatten(0, 1), images_BCHW.device)
        for _ in range(self.steps):
            adversarial = (images_BCHW + delta).clamp(0, 1).requires_grad_()
            (grad,) = torch.autograd.grad(-loss(adversarial) * context.precision.loss_scale, adversarial)
            delta = descend_linf(
                adversarial.detach() - images_BCHW, grad, step_size=self.step_size, epsilon=self.epsilon
            )
        return (images_BCHW + delta).clamp(0, 1)
