"""The pretraining loop, with a tiny SimCLR and with a learner that records what is done to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.backbones import resnet18
from engine.batching import Resident
from engine.checkpoints import Checkpoints
from engine.defenses import none
from engine.errors import EngineError
from engine.journal import Journal
from engine.optimization import warmup_cosine_lr
from engine.precision import Precision
from engine.protocols import Defense, DefenseContext, Gradient, ImageSet, Measure, Source, Victim
from engine.randomness import stream
from engine.training.measures import Measures
from engine.training.pretrain import Course, Recipe, Training, TrainingDiverged, pretrain, unmeasured
from engine.victims import byol, moco_v2, simclr
from engine.victimspec import ViewsSpec
from engine.views import Views

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.2, momentum=0.9, weight_decay=1e-4, warmup_epochs=1, final_lr_rel=1e-3)
WHOLE = Views(8, None, (1.0, 1.0), 0.0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0)
FP32 = Precision("fp32", torch.device("cpu"))
NO_DEFENSE = none.build(none.Spec(kind="none"))


def quiet(done: int, total: int, note: str) -> None:
    """Report nothing."""


def image_set(count: int = 20, size: int = 16) -> ImageSet:
    images = torch.randint(0, 256, (count, 3, size, size), generator=stream(0, "images"), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 2, ("a", "b"))


class Recorder(Victim):
    """A linear learner that counts its calls; its loss is 50 w^2, plus what the views say."""

    views = (WHOLE,) * 3

    def __init__(self, weight: float = 1.0) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.network.weight, weight)
        self.weights_after_steps: list[float] = []
        self.losses: list[tuple[list[Tensor], Tensor]] = []
        self.was_training: list[bool] = []

    @property
    def encoder(self) -> nn.Module:
        return self.network

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        self.losses.append((list(views), labels))
        self.was_training.append(self.network.training)
        return 50 * self.network.weight.square().sum() + 0 * sum(view.sum() for view in views)

    def after_step(self) -> None:
        self.weights_after_steps.append(self.network.weight.item())


class Marker(Defense):
    """A defense that writes its step's number into the images, and its call's into each view."""

    def __init__(self) -> None:
        self.steps = self.calls = 0

    def on_dataset(self, images: ImageSet, context: DefenseContext) -> ImageSet:
        raise AssertionError("the data set is changed before training, not by the loop")

    def on_batch(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        self.steps += 1
        return torch.full_like(images_BCHW, self.steps)

    def on_view(self, draw: Callable[[Tensor], Tensor], images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        assert torch.equal(images_BCHW, torch.full_like(images_BCHW, self.steps))
        assert draw(images_BCHW).shape[1:] == (3, WHOLE.size, WHOLE.size)
        return torch.full_like(images_BCHW, self.calls)


def tiny_simclr(**views: float) -> simclr.SimCLR:
    spec = simclr.Spec(
        kind="simclr",
        backbone=resnet18.Spec(kind="resnet18", width=4, stages=(1,), stem="cifar_stride2"),
        views=ViewsSpec(size=16, **views),
        projector_hidden=8,
        projector_out=8,
    )
    source = Source(mean=(0.5,) * 3, std=(0.25,) * 3, num_classes=2)
    return simclr.build(spec, source=source, generator=stream(0, "weights"))


def train(
    victim: Victim,
    *,
    seed: int = 0,
    defense=NO_DEFENSE,
    images: ImageSet | None = None,
    measure: Measure = unmeasured,
    **changes,
):
    feed = Resident(image_set() if images is None else images)
    how: dict[str, Any] = {"recipe": replace(RECIPE, **changes), "defense": defense}
    course = Course(measure)
    return pretrain(victim, feed, **how, precision=FP32, seed=seed, progress=quiet, course=course)


def test_pretraining_lowers_the_loss_of_the_same_views() -> None:
    # Images that their colour tells apart, and views that keep it: the loss can fall a long way.
    victim = tiny_simclr(jitter_probability=0.0, grayscale=0.0)
    colours = torch.randint(0, 256, (16, 3, 1, 1), generator=stream(0, "colours"), dtype=torch.uint8)
    images = ImageSet(colours.expand(16, 3, 16, 16), torch.arange(16) % 2, ("a", "b"))

    def loss_of_fixed_views() -> float:
        victim.network.train()  # batch statistics before and after: the running ones lag behind
        draws = stream(0, "fixed")
        views = [view(draws, images.images_u8.float() / 255) for view in victim.views]
        with torch.no_grad():
            return victim.loss(views, images.labels).item()

    before = loss_of_fixed_views()
    curve = train(victim, images=images, epochs=10, lr=0.05)
    assert loss_of_fixed_views() < before - 1
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5


def test_pretraining_is_a_function_of_its_seed_to_the_bit() -> None:
    runs = []
    for seed in (0, 0, 1):
        victim = tiny_simclr()
        curve = train(victim, seed=seed)
        runs.append((curve, victim.network.state_dict()))
    (curve, state), (same_curve, same_state), (other_curve, other_state) = runs
    assert same_curve == curve
    assert all(torch.equal(same_state[name], value) for name, value in state.items())
    assert other_curve != curve
    assert not torch.equal(other_state["projector.0.weight"], state["projector.0.weight"])


def test_the_global_random_state_plays_no_part() -> None:
    curves = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            curves.append(train(tiny_simclr()))
            assert torch.initial_seed() == global_seed
    assert curves[0] == curves[1]


def test_every_step_is_followed_by_one_after_step() -> None:
    victim = Recorder()
    train(victim, weight_decay=0.0, momentum=0.0, lr=0.001, epochs=3, warmup_epochs=0, final_lr_rel=1.0)
    assert len(victim.losses) == 3 * (20 // 8)
    # The gradient is 100 w: each step leaves 0.9 of the weight, and after_step sees the weight after it.
    assert victim.weights_after_steps == pytest.approx([0.9**step for step in range(1, 7)], rel=1e-5)


def test_the_network_trains_in_training_mode_and_is_left_in_evaluation_mode() -> None:
    victim = Recorder()
    victim.network.eval()
    train(victim, lr=1e-3)
    assert victim.was_training == [True] * 6
    assert not victim.network.training


def test_the_defense_sees_every_view_and_the_learner_sees_only_defended_ones() -> None:
    victim, defense = Recorder(), Marker()
    train(victim, defense=defense, lr=1e-3)
    assert (defense.steps, defense.calls) == (6, 6 * len(Recorder.views))
    seen = [view.unique().item() for views, _ in victim.losses for view in views]
    assert seen == list(range(1, 19))


def test_an_epoch_visits_whole_batches_of_distinct_images_in_a_new_order() -> None:
    victim = Recorder()
    levels = torch.arange(20, dtype=torch.uint8)
    images = ImageSet(levels[:, None, None, None].expand(20, 3, 8, 8), torch.arange(20), tuple("abcdefghijklmnopqrst"))
    train(victim, images=images, lr=1e-3)
    visits = [labels for _, labels in victim.losses]
    epochs = [torch.cat(visits[start : start + 2]).tolist() for start in (0, 2, 4)]
    assert all(len(set(epoch)) == 16 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    # Labels and images of a batch belong together, and eight bits arrive as [0, 1].
    for views, labels in victim.losses:
        torch.testing.assert_close(views[0][:, 0, 0, 0], labels / 255)


def test_the_recorded_rate_is_the_schedules_at_the_end_of_each_epoch() -> None:
    victim = Recorder()
    reports = []
    curve = pretrain(
        victim,
        Resident(image_set()),
        recipe=replace(RECIPE, lr=1e-3),
        defense=NO_DEFENSE,
        precision=FP32,
        seed=0,
        progress=lambda done, total, note: reports.append((done, total, note)),
    )
    schedule = {"steps_per_epoch": 2, "epochs": 3, "warmup_epochs": 1, "lr": 1e-3, "final_lr_rel": 1e-3}
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    assert [entry["lr"] for entry in curve] == [warmup_cosine_lr(step, **schedule) for step in (1, 3, 5)]
    assert [(done, total) for done, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]
    assert f"{curve[-1]['loss']:.3f}" in reports[-1][2]


def test_every_step_is_taken_at_the_schedules_rate() -> None:
    victim = Recorder()
    train(victim, weight_decay=0.0, momentum=0.0, lr=0.005)
    schedule = {"steps_per_epoch": 2, "epochs": 3, "warmup_epochs": 1, "lr": 0.005, "final_lr_rel": 1e-3}
    # The gradient is 100 w: a step at a rate leaves 1 - 100 rate of the weight.
    kept = torch.tensor([1 - 100 * warmup_cosine_lr(step, **schedule) for step in range(6)], dtype=torch.float64)
    assert victim.weights_after_steps == pytest.approx(kept.cumprod(0).tolist(), rel=1e-5)


def test_the_recorded_loss_is_the_mean_over_the_epochs_steps() -> None:
    victim = Recorder()
    curve = train(victim, weight_decay=0.0, momentum=0.0, lr=0.001, epochs=1, warmup_epochs=0, final_lr_rel=1.0)
    assert curve[0]["loss"] == pytest.approx(50 * (1 + 0.9**2) / 2, rel=1e-5)


@pytest.mark.parametrize("learner", [simclr, moco_v2, byol])
def test_measuring_changes_not_one_bit_of_a_training(learner: Any) -> None:
    runs = []
    for watch in (False, True):
        spec = learner.Spec(
            kind=learner.__name__.rpartition(".")[2],
            backbone=resnet18.Spec(kind="resnet18", width=4, stages=(1,)),
            views=ViewsSpec(size=16),
            batch_size=8,
            **({"queue": 32} if learner is moco_v2 else {}),
        )
        victim = learner.build(spec, source=Source((0.5,) * 3, (0.25,) * 3, 2), generator=stream(0, "weights"))
        measure = Measures(victim, {"": image_set().images_u8}, RECIPE.epochs, FP32, seed=0)
        curve = train(victim, **({"measure": measure} if watch else {}))
        runs.append(([(row["loss"], row["lr"]) for row in curve], victim.network.state_dict(), curve))
    (losses, state, plain), (same_losses, same_state, measured) = runs
    assert losses == same_losses
    assert all(torch.equal(same_state[name], value) for name, value in state.items())
    assert [row.keys() for row in plain] == [{"epoch", "loss", "lr"}] * 3
    assert all(row.keys() == {"epoch", "loss", "lr", "alignment", "uniformity"} for row in measured)
    assert len({row["alignment"] for row in measured}) == 3


def test_progress_says_the_loss_and_the_last_alignment() -> None:
    notes = []
    pretrain(
        Recorder(),
        Resident(image_set()),
        recipe=replace(RECIPE, lr=1e-3),
        defense=NO_DEFENSE,
        precision=FP32,
        seed=0,
        progress=lambda done, total, note: notes.append(note.split(", ")),
        course=Course(lambda epoch: {"alignment": 0.25} if epoch == 2 else {}),
    )
    assert [note[1:] for note in notes] == [[], ["alignment 0.250"], ["alignment 0.250"]]
    assert all(note[0].startswith("loss ") for note in notes)


@pytest.mark.parametrize("start", [1.0, float("nan")], ids=["infinite", "not a number"])
def test_a_loss_that_is_not_finite_stops_the_run(start: float) -> None:
    with pytest.raises(TrainingDiverged, match=r"in epoch 1, step \d+; lower the learning rate"):
        train(Recorder(start), lr=1e30, warmup_epochs=0)


class Breaking(Recorder):
    """A learner whose loss is no number from a step on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.breaks_at = step

    def loss(self, views: Sequence[Tensor], labels: Tensor, *, gradient: Gradient = "single") -> Tensor:
        loss = super().loss(views, labels, gradient=gradient)
        return loss * float("nan") if len(self.losses) > self.breaks_at else loss


def test_a_cpu_stops_at_the_very_step_and_keeps_the_weights_that_made_it() -> None:
    whole, broken = Breaking(100), Breaking(3)
    train(whole, lr=1e-4)
    with pytest.raises(TrainingDiverged) as stopped:
        train(broken, lr=1e-4)
    assert (stopped.value.epoch, stopped.value.step) == (2, 1)  # two steps an epoch: the fourth
    assert len(broken.losses) == 4
    assert broken.weights_after_steps == whole.weights_after_steps[:3]
    assert stopped.value.tensors["network.weight"].isfinite().all()
    orders = stream(0, "victim", "order")
    _, second = (torch.randperm(20, generator=orders) for _ in range(2))
    assert torch.equal(stopped.value.rows, second[8:16])


def test_where_losses_are_not_read_the_first_bad_step_is_named_and_nothing_of_it_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Training, "reads_losses", property(lambda self: False))
    checkpoints = Checkpoints(tmp_path / "job", {})
    journal = Journal(checkpoints, interval=0)
    learner = Breaking(2)
    with pytest.raises(TrainingDiverged, match="in epoch 2, step 1;"), journal.open():
        pretrain(
            learner,
            Resident(image_set()),
            recipe=replace(RECIPE, lr=1e-4),
            defense=NO_DEFENSE,
            precision=FP32,
            seed=0,
            progress=quiet,
            course=Course(journal=journal),
        )
    saved = checkpoints.read()
    assert saved is not None
    assert saved["active"] == "epoch"
    assert saved["parts"]["training"]["parts"][0]["weight"].isfinite().all()


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(EngineError, match="7 images are fewer than one batch of 8"):
        train(Recorder(), images=image_set(7))
