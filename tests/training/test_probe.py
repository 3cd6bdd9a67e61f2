"""Probes: nearest neighbours against a loop, the linear probe on problems with a known answer."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from engine.networks import Encoder, initialize_
from engine.normalization import BatchNorm2d
from engine.protocols import ImageSet, Split
from engine.randomness import stream
from engine.training import probe as probe_module
from engine.training.probe import LinearProbe, classifier_accuracy, encode, knn_accuracy, linear_accuracy
from engine.views import Views

PROBE = LinearProbe(
    epochs=12,
    batch_size=16,
    lr=1.0,
    momentum=0.9,
    weight_decay=0.0,
    milestones=(6, 9),
    decay=0.2,
    crop_scale=(0.2, 1.0),
    copies=2,
    select="last",
)
CROP = Views(8, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0)


class MeanColour(nn.Module):
    """An encoder whose features are the image's mean colour, centred."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) - 0.5


def small_encoder() -> Encoder:
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    encoder = Encoder(backbone, mean=(0.5,) * 3, std=(0.25,) * 3, features=16)
    return initialize_(encoder, stream(0, "weights"))


def coloured(count: int, name: str) -> ImageSet:
    """Return noisy red, green and blue images."""
    labels = torch.arange(count) % 3
    images = torch.randint(0, 100, (count, 3, 8, 8), generator=stream(0, name))
    images[torch.arange(count), labels] += 120
    return ImageSet(images.to(torch.uint8), labels, ("red", "green", "blue"))


def noise(count: int, name: str) -> ImageSet:
    """Return images without anything to learn, of two classes."""
    generator = stream(0, name)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.randint(0, 2, (count,), generator=generator), ("a", "b"))


COLOURS = Split(coloured(48, "train"), coloured(30, "test"))
NOISE = Split(noise(48, "train"), noise(40, "test"))


def vote_by_loop(train: Tensor, labels: Tensor, query: Tensor, k: int, temperature: float) -> int:
    """Vote as Wu et al. 2018, section 3.4: weights exp(cosine / temperature) of the k nearest."""
    ranked = []
    for row, label in zip(train.tolist(), labels.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(row, query.tolist(), strict=True))
        ranked.append((dot / (math.hypot(*row) * math.hypot(*query.tolist())), label))
    votes: dict[int, float] = defaultdict(float)
    for cosine, label in sorted(ranked, reverse=True)[:k]:
        votes[label] += math.exp(cosine / temperature)
    return max(votes, key=votes.__getitem__)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (5, 0.5), (50, 0.07), (200, 1.0)])
def test_knn_is_the_papers_vote_written_as_a_loop(k: int, temperature: float) -> None:
    generator = stream(0, "features")
    train, test = (torch.randn(n, 3, generator=generator) for n in (60, 40))
    labels = torch.randint(0, 4, (60,), generator=generator)
    votes = torch.tensor([vote_by_loop(train, labels, query, k, temperature) for query in test])
    assert len(votes.unique()) > 1
    # The loop's own votes as the truth: one different vote out of 40 would be seen.
    assert knn_accuracy(train, labels, test, votes, k=k, temperature=temperature) == 1.0
    wrong = (votes + 1) % 4
    assert knn_accuracy(train, labels, test, wrong, k=k, temperature=temperature) == 0.0
    half = torch.where(torch.arange(40) % 2 == 0, votes, wrong)
    assert knn_accuracy(train, labels, test, half, k=k, temperature=temperature) == 0.5


@pytest.mark.parametrize(("temperature", "winner"), [(0.05, 0), (10.0, 1)])
def test_temperature_decides_between_the_nearest_and_the_majority(temperature: float, winner: int) -> None:
    train = torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.7, 0.7]])
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[2.0, 0.1]])
    assert knn_accuracy(train, labels, query, torch.tensor([winner]), k=3, temperature=temperature) == 1.0


def test_knn_does_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = stream(0, "features")
    train, test = torch.randn(50, 4, generator=generator), torch.randn(33, 4, generator=generator)
    labels, truth = (torch.randint(0, 2, (n,), generator=generator) for n in (50, 33))
    whole = knn_accuracy(train, labels, test, truth, k=7, temperature=0.1)
    monkeypatch.setattr(probe_module, "CHUNK", 4)
    assert knn_accuracy(train, labels, test, truth, k=7, temperature=0.1) == whole


def test_encoding_leaves_the_encoder_in_evaluation_mode_and_otherwise_as_it_was() -> None:
    encoder = small_encoder().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = encode(encoder, NOISE.train.images_u8, None, None)
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert features.shape == (48, 16)
    assert not features.requires_grad
    assert torch.equal(features, encoder(NOISE.train.images_u8 / 255))


@pytest.mark.parametrize("views", [None, CROP], ids=["as they are", "augmented"])
def test_encoding_does_not_depend_on_the_chunk_size(views: Views | None, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_encoder()
    whole = encode(encoder, NOISE.train.images_u8, views, stream(0, "views"))
    monkeypatch.setattr(probe_module, "CHUNK", 5)
    pieces = encode(encoder, NOISE.train.images_u8, views, stream(0, "views"))
    # Not to the bit: convolutions of other batch sizes may sum in another order.
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


def test_every_augmented_encoding_is_drawn_anew() -> None:
    draws = stream(0, "views")
    one, other = (encode(small_encoder(), NOISE.train.images_u8, CROP, draws) for _ in range(2))
    assert ((one - other).abs().amax(dim=1) > 1e-4).float().mean() > 0.9


def test_a_classifier_is_judged_as_it_is() -> None:
    features, labels = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    classifier = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        classifier[1].weight.copy_(torch.eye(4)[[0, 1, 3, 2]])
    before = [tensor.clone() for tensor in classifier.state_dict().values()]
    assert classifier_accuracy(classifier, features, labels) == 0.5
    assert not classifier.training
    assert all(map(torch.equal, classifier.state_dict().values(), before))


def test_the_linear_probe_separates_what_is_separable() -> None:
    assert linear_accuracy(MeanColour(), COLOURS, probe=PROBE, seed=0) == 1.0


def test_the_linear_probe_learns_the_labels_and_is_judged_on_the_test_set() -> None:
    rotated = replace(COLOURS.test, labels=(COLOURS.test.labels + 1) % 3)
    split = Split(COLOURS.train, rotated)
    assert linear_accuracy(MeanColour(), split, probe=PROBE, seed=0) == 0.0


def test_the_linear_probe_is_a_function_of_its_seed() -> None:
    accuracies = [linear_accuracy(small_encoder(), NOISE, probe=PROBE, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert accuracies[0] == accuracies[1]
    assert len(set(accuracies)) > 1


def by_last_epoch(**changes: object) -> list[float]:
    """Return the accuracy after every epoch of one run, one copy of the training set."""
    settings = {"copies": 1, "milestones": (), **changes}
    return [
        linear_accuracy(small_encoder(), NOISE, probe=replace(PROBE, epochs=epochs, **settings), seed=0)
        for epochs in range(1, 9)
    ]


def test_the_best_epoch_is_the_largest_of_all_last_ones() -> None:
    last = by_last_epoch()
    best = linear_accuracy(
        small_encoder(), NOISE, probe=replace(PROBE, epochs=8, copies=1, milestones=(), select="best"), seed=0
    )
    assert best == max(last)
    assert best > last[-1]  # or the two choices could not be told apart here


def test_the_rate_decays_from_the_milestone_epoch_on() -> None:
    # A rate of zero stops the classifier after the first three epochs.
    free, stopped = by_last_epoch(), by_last_epoch(milestones=(3,), decay=0.0)
    assert stopped == free[:3] + [free[2]] * 5
    assert len(set(free[2:])) > 1  # or stopping could not be seen


def test_copies_beyond_the_epochs_change_nothing() -> None:
    encoded = []

    class Counting(MeanColour):
        def forward(self, images: Tensor) -> Tensor:
            encoded.append(len(images))
            return super().forward(images)

    for copies in (3, 100):
        linear_accuracy(Counting(), COLOURS, probe=replace(PROBE, epochs=3, copies=copies), seed=0)
    assert encoded == [48, 48, 48, 30] * 2
