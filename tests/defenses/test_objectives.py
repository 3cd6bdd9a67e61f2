"""Defenses on the objective: what they show the learner, what they make of its loss, what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine import plugins
from engine.defenses import adversarial_training, cutmix, mixup, ueraser
from engine.precision import Precision
from engine.protocols import Defense, DefenseContext, Gradient, Source, Victim
from engine.randomness import stream
from engine.specfiles import load
from engine.training import mixing
from engine.training.hardening import WorstOfSeveral
from engine.training.mixing import Mixed, draw_share

SIZE, COUNT, CLASSES = 8, 8, 3
SMALL: dict[str, Any] = {
    "backbone": {"kind": "resnet18", "width": 4, "stages": [1]},
    "views": {"size": SIZE},
    "batch_size": COUNT,
}
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CLASSES)
CPU = Precision("fp32", torch.device("cpu"))
DEFENSES = ("adversarial_training", "cutmix", "mixup", "ueraser")


def context(seed: int = 0, precision: Precision = CPU) -> DefenseContext:
    return DefenseContext(stream(seed, "defense", "objective"), precision, lambda which: nn.Identity())


def victim_spec(kind: str) -> Any:
    return TypeAdapter(plugins.spec_of("victims")).validate_python({"kind": kind, **SMALL}, strict=False)


def victim_of(kind: str) -> Victim:
    victim: Victim = plugins.build("victims", victim_spec(kind), source=SOURCE, generator=stream(0, "victim", "init"))
    return victim


def two_view_kinds() -> list[str]:
    return [kind for kind in plugins.kinds("victims") if len(victim_of(kind).views) == 2]


def batch(seed: int = 0, views: int = 1) -> tuple[list[Tensor], Tensor]:
    generator = stream(seed, "images")
    images = [torch.rand(COUNT, 3, SIZE, SIZE, generator=generator) for _ in range(views)]
    return images, torch.arange(COUNT) % CLASSES


class Recording(Victim):
    """A learner that records what it is shown; ``linear`` classifies, ``pairs`` compares two views."""

    def __init__(self) -> None:
        head = nn.Linear(3 * SIZE * SIZE, CLASSES, bias=False)
        head.weight.data = torch.randn(head.weight.shape, generator=stream(0, "weights")) / 5
        self.network = nn.ModuleDict({"encoder": nn.Flatten(), "classifier": head})
        self.views = ()
        self.seen: list[list[Tensor]] = []
        self.with_gradient: list[bool] = []

    @property
    def encoder(self) -> nn.Module:
        return self.network["encoder"]

    @property
    def weights(self) -> Tensor:
        return self.network["classifier"].weight

    def record(self, views: Sequence[Tensor]) -> None:
        self.seen.append([view.detach() for view in views])
        self.with_gradient.append(torch.is_grad_enabled())


class Linear(Recording):
    @property
    def classifier(self) -> nn.Module:
        return self.network["classifier"]

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        self.record(views)
        return cross_entropy(self.classifier(self.encoder(views[0])), labels)


class Pairs(Recording):
    """The mean over images of the product of two linear projections, weighted by the label."""

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        self.record(views)
        one, other = (view.flatten(1) @ self.weights[0] for view in views)
        return ((labels + 1) * one * other).mean()


# Adversarial training


def adversarially(victim: Victim, seed: int = 0, **changes: Any) -> Victim:
    spec = adversarial_training.Spec(kind="adversarial_training", **changes)
    return adversarial_training.build(spec).on_objective(victim, context(seed))


def test_the_adversary_of_two_linear_classes_goes_to_the_corner_of_the_ball() -> None:
    # Between two classes the gradient's sign is that of the difference of their weights, wherever one stands.
    victim, ((view,), labels) = Linear(), batch()
    labels = labels % 2
    victim.weights.data[2] = -1e3  # never likely
    view = 0.3 + 0.4 * view  # away from black and white; the third class stays out of reach
    adversarially(victim, epsilon=0.03, pgd_steps=10).loss([view], labels)
    away = (victim.weights[1 - labels] - victim.weights[labels]).sign().view_as(view)
    torch.testing.assert_close(victim.seen[-1][0], view + 0.03 * away)


def pgd_by_loops(image: Tensor, start: Tensor, label: int, weights: Tensor, epsilon: float, steps: int) -> Tensor:
    """Return one adversarial image: the gradient of the cross-entropy of logits W x is W' (softmax - one-hot)."""
    adversarial = (image + start).clamp(0, 1)
    for _ in range(steps):
        probabilities = (weights @ adversarial.flatten()).softmax(dim=0)
        probabilities[label] -= 1
        gradient = (weights.T @ probabilities).view_as(image)
        adversarial = adversarial + epsilon / 4 * gradient.sign()
        adversarial = adversarial.clamp(image - epsilon, image + epsilon).clamp(0, 1)
    return adversarial


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_adversary_walks_as_projected_gradient_ascent_by_loops(steps: int) -> None:
    victim, ((view,), labels) = Linear(), batch()
    view[0], view[1] = 0, 1  # where the range of pixels binds
    defended = adversarially(victim, seed=3, epsilon=0.1, pgd_steps=steps)
    loss = defended.loss([view], labels)
    starts = torch.empty(view.shape).uniform_(-0.1, 0.1, generator=stream(3, "defense", "objective"))
    weights = victim.weights.detach()
    expected = torch.stack(
        [
            pgd_by_loops(image, start, int(label), weights, 0.1, steps)
            for image, start, label in zip(view, starts, labels, strict=True)
        ]
    )
    torch.testing.assert_close(victim.seen[-1][0], expected)
    assert len(victim.seen) == steps + 1
    # The training loss is that of the adversarial images alone, and no gradient came from the search.
    assert victim.weights.grad is None
    loss.backward()
    logits = expected.flatten(1) @ weights.T
    slope = (logits.softmax(dim=1) - torch.eye(CLASSES)[labels]).T @ expected.flatten(1) / COUNT
    torch.testing.assert_close(victim.weights.grad, slope)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), epsilon=st.floats(0.001, 0.5), steps=st.integers(1, 5))
def test_adversarial_images_are_worse_and_inside_the_ball(seed: int, epsilon: float, steps: int) -> None:
    victim, ((view,), labels) = Linear(), batch(seed)
    defended = adversarially(victim, seed, epsilon=epsilon, pgd_steps=steps, step_size_rel=2.0)
    loss, clean = defended.loss([view], labels), victim.loss([view], labels)
    adversarial = victim.seen[-2][0]
    assert (adversarial - view).abs().max() <= epsilon + 1e-6
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    assert loss > clean - 1e-6


def test_only_learners_with_a_classifier_train_adversarially() -> None:
    spec = load("defenses", "adversarial_training")
    for kind in plugins.kinds("victims"):
        fault = spec.victim_fault(victim_spec(kind))
        assert (fault is None) == (victim_of(kind).classifier is not None)
        assert fault is None or kind in fault
    assert spec.victim_fault(victim_spec("simclr")) is not None
    assert (spec.epsilon, spec.pgd_steps) == (8 / 255, 10)
    assert spec.step_size_rel * spec.epsilon == pytest.approx(2 / 255)


@pytest.mark.parametrize("values", [{"epsilon": 0}, {"epsilon": 1.1}, {"pgd_steps": 0}, {"step_size_rel": 0}])
def test_an_adversary_that_cannot_move_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        adversarial_training.Spec(kind="adversarial_training", **values)


# Mixtures


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 4.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    generator = stream(0, "shares")
    shares = [draw_share(alpha, generator) for _ in range(2000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_extreme_shares_are_numbers() -> None:
    generator = stream(0, "shares")
    shares = torch.tensor([draw_share(0.05, generator) for _ in range(2000)])
    assert shares.isfinite().all()
    assert 0.4 < (shares > 0.5).float().mean() < 0.6
    assert (shares * (1 - shares)).mean() == pytest.approx(0.25 * 0.1 / 1.1, rel=0.3)  # of Beta(a, a): a / (2 (2a + 1))


def fixed(share: float) -> Callable[[Tensor, torch.Generator], tuple[Tensor, float]]:
    return lambda images, generator: (share * images + (1 - share) * images.flip(0), share)


def mixed_cross_entropy_by_loops(view: Tensor, labels: Tensor, weights: Tensor, share: float) -> float:
    losses = []
    for row in range(len(view)):
        partner = len(view) - 1 - row
        mixture = share * view[row] + (1 - share) * view[partner]
        scores = [math.exp(float(mixture.flatten() @ weight)) for weight in weights]
        own, other = (scores[int(labels[each])] / sum(scores) for each in (row, partner))
        losses.append(-share * math.log(own) - (1 - share) * math.log(other))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
def test_a_classifier_learns_the_mixed_label_of_a_mixture_in_one_pass(share: float) -> None:
    victim, ((view,), labels) = Linear(), batch()
    labels = torch.tensor([0, 1, 2, 1, 1, 0, 2, 0])  # partners of one class, and of two
    loss = Mixed(victim, context(), fixed(share)).loss([view], labels)
    expected = mixed_cross_entropy_by_loops(view, labels, victim.weights.detach(), share)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert len(victim.seen) == 1
    if share in (0, 1):
        torch.testing.assert_close(
            loss, victim.loss([view if share else view.flip(0)], labels if share else labels.flip(0))
        )


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
def test_learners_of_two_views_compare_a_mixture_with_both_of_its_images(share: float) -> None:
    victim, (views, labels) = Pairs(), batch(views=2)
    loss = Mixed(victim, context(), fixed(share)).loss(views, labels)
    project = victim.weights.detach()[0]
    losses = []
    for row in range(COUNT):
        partner = COUNT - 1 - row
        mixture = (share * views[0][row] + (1 - share) * views[0][partner]).flatten() @ project
        for weight, image in ((share, row), (1 - share, partner)):
            losses.append(weight * float((labels[image] + 1) * mixture * (views[1][image].flatten() @ project)))
    assert loss.item() == pytest.approx(sum(losses) / COUNT, rel=1e-4)
    if share == 1:
        torch.testing.assert_close(loss, victim.loss(views, labels))


@pytest.mark.parametrize("kind", two_view_kinds())
def test_every_learner_of_two_views_meets_each_mixture_with_both_labels(kind: str) -> None:
    # The other way to write it: the mixtures stay, the second views and their labels trade places.
    victim, (views, labels) = victim_of(kind), batch(views=2)
    victim.network.eval()
    mixed = 0.3 * views[0] + 0.7 * views[0].flip(0)
    own = victim.loss([mixed, views[1]], labels)
    partner = victim.loss([mixed, views[1].flip(0)], labels.flip(0))
    loss = Mixed(victim, context(), fixed(0.3)).loss(views, labels)
    torch.testing.assert_close(loss, 0.3 * own + 0.7 * partner)
    assert (own - partner).abs() > 1e-6


def test_the_keys_of_every_unmixed_second_view_enter_the_queue_once() -> None:
    victim, (views, labels) = victim_of("moco_v2"), batch(views=2)
    victim.network.eval()
    keys = victim.network["momentum"](views[1])
    before = victim.network.get_buffer("queue").clone()
    defended = Mixed(victim, context(), fixed(0.3))
    defended.loss(views, labels)
    defended.after_step()
    queue = victim.network.get_buffer("queue")
    torch.testing.assert_close(queue[:COUNT], keys)
    assert torch.equal(queue[COUNT:], before[:-COUNT])


def test_mixup_blends_with_the_mirrored_image() -> None:
    ((images,), _), generator = batch(), stream(0, "mix")
    mixed, share = mixing.mixup(images, generator, alpha=0.7)
    assert share == draw_share(0.7, stream(0, "mix"))
    for row in range(COUNT):
        torch.testing.assert_close(mixed[row], share * images[row] + (1 - share) * images[COUNT - 1 - row])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), alpha=st.floats(0.05, 5), height=st.integers(1, 12), width=st.integers(1, 12))
def test_cutmix_pastes_one_box_and_returns_the_share_that_it_left(
    seed: int, alpha: float, height: int, width: int
) -> None:
    own = torch.arange(4.0)[:, None, None, None].expand(4, 3, height, width)
    before = own.clone()
    mixed, share = mixing.cutmix(own, stream(seed, "mix"), alpha=alpha, probability=1.0)
    is_cut = mixed != own
    assert torch.equal(own, before)
    assert torch.equal(is_cut, is_cut[:1, :1].expand_as(is_cut))  # the same box for all
    assert torch.equal(torch.where(is_cut, mixed, own.flip(0)), own.flip(0))
    rows, columns = is_cut[0, 0].any(dim=1), is_cut[0, 0].any(dim=0)
    assert torch.equal(is_cut[0, 0], rows[:, None] & columns)  # a product of two sets of lines,
    for lines in (rows, columns):
        assert (lines[1:] != lines[:-1]).sum() <= 2  # each of which is one span
    assert share == pytest.approx(1 - is_cut[0, 0].float().mean().item())


def box_by_hand(share: float, draws: torch.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Return a box's edges as the official code computes them: top, bottom, left, right."""
    edges = []
    for side in (height, width):
        cut, centre = int(side * math.sqrt(1 - share)), int(torch.randint(side, (), generator=draws))
        edges += [min(max(centre - cut // 2, 0), side), min(max(centre + cut // 2, 0), side)]
    return edges[0], edges[1], edges[2], edges[3]


def test_the_box_is_the_official_one() -> None:
    images = torch.arange(2.0)[:, None, None, None].expand(2, 3, 16, 20)
    for seed in range(40):
        mixed, _ = mixing.cutmix(images, stream(seed, "mix"), alpha=1.0, probability=1.0)
        draws = stream(seed, "mix")
        torch.rand((), generator=draws)
        top, bottom, left, right = box_by_hand(draw_share(1.0, draws), draws, 16, 20)
        expected = torch.zeros(16, 20)
        expected[top:bottom, left:right] = 1
        assert torch.equal(mixed[0, 0], expected)


def test_cutmix_cuts_as_often_as_it_says() -> None:
    images, generator = torch.rand(2, 3, 32, 32, generator=stream(0, "images")), stream(0, "mix")
    for probability, low, high in ((0.0, 0, 0), (0.25, 60, 140), (1.0, 380, 400)):  # tiny boxes may vanish
        draws = [mixing.cutmix(images, generator, alpha=1.0, probability=probability) for _ in range(400)]
        assert low <= sum(share < 1 for _, share in draws) <= high
        assert all(torch.equal(mixed, images) for mixed, share in draws if share == 1)


def test_the_declared_mixtures_are_the_official_ones() -> None:
    assert load("defenses", "mixup") == mixup.Spec(kind="mixup", alpha=1.0)
    assert load("defenses", "cutmix") == cutmix.Spec(kind="cutmix", alpha=1.0, probability=0.5)


@pytest.mark.parametrize("module", [mixup, cutmix])
def test_the_plugin_mixes_as_its_spec_says(module: Any) -> None:
    name = module.__name__.rsplit(".", 1)[1]
    victim, (views, labels) = Pairs(), batch(views=2)
    spec = module.Spec(kind=name, alpha=0.4, **({"probability": 1.0} if name == "cutmix" else {}))
    module.build(spec).on_objective(victim, context(5)).loss(views, labels)
    mix = partial(getattr(mixing, name), **spec.model_dump(exclude={"kind"}))
    expected, _ = mix(views[0], context(5).generator)
    assert torch.equal(victim.seen[0][0], expected)
    assert torch.equal(victim.seen[0][1], views[1])


# The worst of several


def jostle(images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + torch.rand(images.shape, generator=generator) - 0.5).clamp(0, 1)


@pytest.mark.parametrize("repeats", [2, 5])
def test_every_image_takes_its_own_draw_of_the_largest_loss(repeats: int) -> None:
    victim, ((view,), labels) = Linear(), batch()
    loss = WorstOfSeveral(victim, context(2), jostle, repeats).loss([view], labels)
    generator = context(2).generator
    draws = [jostle(view, generator) for _ in range(repeats)]
    weights, chosen, worst = victim.weights.detach(), [], []
    for row in range(COUNT):
        scores = [weights @ draw[row].flatten() for draw in draws]
        losses = [float(score.logsumexp(dim=0) - score[labels[row]]) for score in scores]
        chosen.append(losses.index(max(losses)))
        worst.append(max(losses))
    assert len(set(chosen)) > 1  # else a choice for the batch would do
    assert torch.equal(victim.seen[-1][0], torch.stack([draws[draw][row] for row, draw in enumerate(chosen)]))
    assert loss.item() == pytest.approx(sum(worst) / COUNT, rel=1e-5)


def test_learners_of_two_views_take_the_draw_of_the_largest_loss_whole() -> None:
    victim, (views, labels) = Pairs(), batch(views=2)
    chosen = set()
    for seed in range(6):
        loss = WorstOfSeveral(victim, context(seed), jostle, 4).loss(views, labels)
        generator = context(seed).generator
        draws = [[jostle(view, generator) for view in views] for _ in range(4)]
        losses = [victim.loss(draw, labels).item() for draw in draws]
        worst = losses.index(max(losses))
        chosen.add(worst)
        assert loss.item() == max(losses)
        assert all(torch.equal(one, other) for one, other in zip(victim.seen[-5], draws[worst], strict=True))
    assert len(chosen) > 1


def test_the_search_sends_no_gradient() -> None:
    victim, (views, labels) = Pairs(), batch(views=2)
    loss = WorstOfSeveral(victim, context(), jostle, 3).loss(views, labels)
    assert victim.with_gradient == [False, False, False, True]
    assert victim.weights.grad is None
    loss.backward()
    worst = [view.requires_grad_() for view in victim.seen[-1]]
    (gradient,) = torch.autograd.grad(victim.loss(worst, labels), victim.weights)
    torch.testing.assert_close(victim.weights.grad, gradient)


def test_one_draw_needs_no_search() -> None:
    for victim in (Linear(), Pairs()):
        views, labels = batch(views=1 if victim.classifier is not None else 2)
        ueraser.build(ueraser.Spec(kind="ueraser", repeats=1)).on_objective(victim, context()).loss(views, labels)
        assert victim.with_gradient == [True]
        assert not torch.equal(victim.seen[0][0], views[0])
    assert load("defenses", "ueraser").repeats == 5


# All of them


def defense_of(name: str) -> tuple[Any, Defense]:
    spec = load("defenses", name)
    return spec, plugins.build("defenses", spec)


@pytest.mark.parametrize("name", DEFENSES)
def test_every_draw_comes_from_the_defenses_own_stream(name: str) -> None:
    _, defense = defense_of(name)
    (view,), labels = batch()
    learners = [Linear() for _ in range(4)]
    others = torch.get_rng_state()
    losses = [
        defense.on_objective(learner, context(seed)).loss([view], labels).item()
        for learner, seed in zip(learners, (1, 1, 2, 3), strict=True)
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    assert torch.equal(torch.get_rng_state(), others)


@pytest.mark.parametrize("name", DEFENSES)
def test_no_step_waits_for_a_gpu(name: str) -> None:
    # On the meta device, which has no values, whatever would wait for them raises.
    spec, defense = defense_of(name)
    meta = torch.device("meta")
    kinds = [kind for kind in ("supervised", "moco_v2") if spec.victim_fault(victim_spec(kind)) is None]
    assert kinds
    for kind in kinds:
        inner = victim_of(kind)
        inner.network.to(meta)
        victim = defense.on_objective(inner, context(precision=Precision("fp32", meta)))
        views = [torch.zeros(COUNT, 3, SIZE, SIZE, device=meta) for _ in victim.views]
        loss = victim.loss(views, torch.zeros(COUNT, dtype=torch.int64, device=meta))
        loss.backward()
        victim.after_step()
        assert loss.device == meta


@pytest.mark.parametrize("name", DEFENSES)
def test_the_loss_stays_in_single_precision_under_autocast(name: str) -> None:
    _, defense = defense_of(name)
    precision = Precision("bf16", torch.device("cpu"))
    victim = defense.on_objective(victim_of("supervised"), context(precision=precision))
    (view,), labels = batch()
    with precision.autocast():
        loss = victim.loss([view], labels)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert all(weight.grad is not None for weight in victim.network.parameters())
