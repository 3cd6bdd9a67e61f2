"""Networks in training, each as the engine steps it and bare.

Shapes: B images a batch, D projection dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.lab import Lab, machine
from benchmarks.pictures import CLASSES, as_u8, image_set, smooth_images
from engine import plugins
from engine.batching import Resident
from engine.optimization import set_lr
from engine.protocols import Batch, Source, Victim
from engine.randomness import stream
from engine.specfiles import load
from engine.stages.pretrain import fresh_victim
from engine.training.pretrain import Recipe, Training, start_training
from engine.victimspec import VictimSpec

VICTIMS = {"tiny": "protect_simclr", "resnet18": "simclr"}
"""Our short names for files of specs/victims: the mini studies' network, and ResNet-18 with the CIFAR stem."""
SOURCE = Source(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), num_classes=CLASSES)
RESIDENT = 16  # batches of images that lie in memory
LR = 0.01  # the first of the schedule: random images are learnt no better with more, and must not diverge


def spec_of(network: str, lab: Lab) -> VictimSpec:
    """Return a committed victim with the lab's batch."""
    spec: VictimSpec = load("victims", VICTIMS[network]).model_copy(update={"batch_size": lab.batch})
    return spec


def victim_of(network: str, lab: Lab) -> Victim:
    """Build a learner in the layout's memory format."""
    victim = fresh_victim(spec_of(network, lab), SOURCE, 0)
    machine(lab).place(victim.network)
    return victim


@dataclass(frozen=True)
class Trainee:
    """A learner, its training and its batches."""

    training: Training
    batches: Iterator[Batch]

    def step(self) -> Tensor:
        """Take a step as ``engine.training.pretrain`` does: gather, views, loss, backward pass, update."""
        images_u8, labels = next(self.batches)
        set_lr(self.training.optimizer, LR)
        return self.training.step(images_u8, labels)


@functools.cache
def trainee(network: str, lab: Lab) -> Trainee:
    """Return a network in training on resident images."""
    spec, victim = spec_of(network, lab), victim_of(network, lab)
    recipe = Recipe(**spec.recipe())
    training = start_training(
        victim,
        recipe=recipe,
        defense=plugins.build("defenses", load("defenses", "none")),
        precision=machine(lab).precision,
        seed=0,
    )
    return Trainee(training, _endless(Resident(image_set(resident_u8(lab))), lab.batch))


@functools.cache
def resident_u8(lab: Lab) -> Tensor:
    """Return the images that trainees learn from."""
    return as_u8(smooth_images(RESIDENT * lab.batch, 32))


def _endless(feed: Resident, batch: int) -> Iterator[Batch]:
    orders = stream(0, "victim", "order")
    while True:
        yield from feed.batches(torch.randperm(len(feed), generator=orders), batch)


def embed(victim: Victim, views_BCHW: Tensor) -> Tensor:
    """Return what the loss is computed of: the whole network's output [B, D]."""
    assert isinstance(victim.network, nn.ModuleDict)  # SimCLR's
    return victim.network["projector"](victim.encoder(views_BCHW))


@dataclass(frozen=True)
class Bare:
    """A network alone: forward and backward on views that are there already, no loss, no update.

    Shapes: views [2 B, 3, H, W], both views of a batch; upstream [2 B, D], the gradient that a loss would send.
    """

    victim: Victim
    views: Tensor
    upstream: Tensor

    def train(self) -> None:
        """Compute the gradient of the weights."""
        self.victim.network.zero_grad(set_to_none=True)
        embed(self.victim, self.views).backward(self.upstream)

    def attack(self) -> None:
        """Compute the gradient of the views; the caller has frozen the network in evaluation mode."""
        views = self.views.requires_grad_()
        torch.autograd.grad(embed(self.victim, views), views, self.upstream)


def bare(victim: Victim, lab: Lab) -> Bare:
    """Return a learner's own network with views of one batch."""
    images, draws = resident_u8(lab)[: lab.batch].float() / 255, stream(0, "benchmarks", "bare")
    views = torch.cat([view(draws, images) for view in victim.views])
    with torch.no_grad():
        upstream = torch.randn(embed(victim, views).shape, generator=draws)
    return Bare(victim, views, upstream)
