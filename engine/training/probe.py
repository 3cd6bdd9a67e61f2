"""Linear and nearest-neighbour probes of a frozen encoder, and the accuracy of a classifier that learnt with it.

Shapes: N images, F features, K classes; ``copies`` augmented encodings of a training set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.networks import initialize_
from engine.optimization import descend, set_lr, sgd
from engine.protocols import Split
from engine.randomness import stream
from engine.views import Views

CHUNK = 512  # images encoded at a time; only memory and speed depend on it


@dataclass(frozen=True)
class LinearProbe:
    """The linear probe's settings; see ``LinearProbeSpec``."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    milestones: tuple[int, ...]
    decay: float
    crop_scale: tuple[float, float]
    copies: int
    select: str


@torch.no_grad()
def encode(encoder: nn.Module, images_u8: Tensor, views: Views | None, generator: torch.Generator | None) -> Tensor:
    """Return the features [N, F] of images, augmented where views are given."""
    encoder.eval()
    parameters = None
    if views is not None and generator is not None:
        # Drawn for all images at once: drawn per chunk, the features would depend on the chunk size.
        height, width = images_u8.shape[2:]
        parameters = views.sample(generator, len(images_u8), (height, width))
    features = []
    for start in range(0, len(images_u8), CHUNK):
        rows = slice(start, start + CHUNK)
        images = images_u8[rows].float() / 255
        if views is not None and parameters is not None:
            images = views.apply(images, parameters[rows])
        features.append(encoder(images))
    return torch.cat(features)


def knn_accuracy(
    train_NF: Tensor, train_labels: Tensor, test_NF: Tensor, test_labels: Tensor, *, k: int, temperature: float
) -> float:
    """Return the accuracy (0 to 1) of a weighted vote of the k most similar training features.

    Source: Wu et al. 2018, section 3.4.
    """
    train, test = F.normalize(train_NF, dim=1), F.normalize(test_NF, dim=1)
    num_classes = int(train_labels.max()) + 1
    correct = 0
    for chunk, labels in zip(test.split(CHUNK), test_labels.split(CHUNK), strict=True):
        similarity, neighbours = (chunk @ train.T).topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(chunk), num_classes, device=chunk.device)
        votes.scatter_add_(1, train_labels[neighbours], (similarity / temperature).exp())
        correct += int((votes.argmax(dim=1) == labels).sum())
    return correct / len(test_labels)


@torch.no_grad()
def classifier_accuracy(classifier: nn.Module, features_NF: Tensor, labels: Tensor) -> float:
    """Return the accuracy (0 to 1) of a classifier as it is: features [N, F] to logits [N, K]."""
    classifier.eval()
    return (classifier(features_NF).argmax(dim=1) == labels).float().mean().item()


def linear_accuracy(encoder: nn.Module, split: Split, *, probe: LinearProbe, seed: int) -> float:
    """Return the test accuracy (0 to 1) of a linear classifier on frozen features.

    Trained on random crops and flips of the training images, tested on the images as they are. The
    training set is encoded ``copies`` times and the epochs cycle over those encodings.

    Source: He, Zha & Katabi 2023, appendix B.2; official code, evaluation.py (which reports the best
        epoch on the test set: ``select: best``).
    """
    size = split.train.images_u8.shape[-1]
    views = Views(size, probe.crop_scale, (3 / 4, 4 / 3), 0.5, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0)
    draws, orders = stream(seed, "probe", "views"), stream(seed, "probe", "order")
    copies = min(probe.copies, probe.epochs)
    banks = [encode(encoder, split.train.images_u8, views, draws) for _ in range(copies)]
    test_NF = encode(encoder, split.test.images_u8, None, None)
    classifier = nn.Linear(test_NF.shape[1], len(split.train.class_names))
    initialize_(classifier, stream(seed, "probe", "init")).to(test_NF.device)
    optimizer = sgd(classifier.parameters(), lr=probe.lr, momentum=probe.momentum, weight_decay=probe.weight_decay)
    accuracies = []
    for epoch in range(probe.epochs):
        set_lr(optimizer, probe.lr * probe.decay ** sum(epoch >= m for m in probe.milestones))
        order = torch.randperm(len(split.train), generator=orders).to(test_NF.device)
        for rows in order.split(probe.batch_size):
            logits = classifier(banks[epoch % copies][rows])
            descend(F.cross_entropy(logits, split.train.labels[rows]), optimizer)
        accuracies.append((classifier(test_NF).argmax(dim=1) == split.test.labels).float().mean())
    chosen = torch.stack(accuracies).max() if probe.select == "best" else accuracies[-1]
    return chosen.item()
