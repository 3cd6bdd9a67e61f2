"""SimCLR: the purity of its loss, its batch statistics, its gradient, its state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.backbones import resnet18
from engine.losses import nt_xent
from engine.protocols import Source
from engine.randomness import stream
from engine.victims import simclr
from engine.victimspec import ViewsSpec

SOURCE = Source(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), num_classes=2)
LABELS = torch.zeros(8, dtype=torch.int64)


def build(seed: int = 0, **changes: object) -> simclr.SimCLR:
    settings = {
        "backbone": resnet18.Spec(kind="resnet18", width=4, stages=(1, 1)),
        "views": ViewsSpec(size=16),
        "projector_hidden": 12,
        "projector_out": 6,
    }
    spec = simclr.Spec(kind="simclr", **(settings | changes))
    return simclr.build(spec, source=SOURCE, generator=stream(seed, "weights"))


def two_views() -> list[Tensor]:
    # One view brighter than the other, so that statistics of one alone differ from those of both.
    generator = stream(0, "images")
    return [0.5 * torch.rand(8, 3, 16, 16, generator=generator) + shift for shift in (0.0, 0.5)]


def state(victim: simclr.SimCLR) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in victim.network.state_dict().items()}


def changed(victim: simclr.SimCLR, before: dict[str, Tensor]) -> set[str]:
    after = victim.network.state_dict()
    assert after.keys() == before.keys()
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


def test_the_loss_changes_nothing_in_evaluation_mode() -> None:
    victim = build()
    victim.network.eval()
    before, views = state(victim), two_views()
    kept = [view.clone() for view in views]
    one, again = (victim.loss(views, LABELS) for _ in range(2))
    assert torch.equal(one, again)
    assert changed(victim, before) == set()
    assert all(torch.equal(view, copy) for view, copy in zip(views, kept, strict=True))
    assert all(parameter.grad is None for parameter in victim.network.parameters())


def test_the_loss_changes_nothing_but_batch_statistics_in_training_mode() -> None:
    victim = build()
    victim.network.train()
    before = state(victim)
    victim.loss(two_views(), LABELS)
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert len(statistics) == 3 * 6
    assert changed(victim, before) == statistics


def test_after_step_moves_nothing() -> None:
    victim = build()
    before = state(victim)
    victim.after_step()
    assert changed(victim, before) == set()


def test_both_views_share_their_batch_statistics() -> None:
    views = two_views()
    victim, twin = build(), build()
    loss = victim.loss(views, LABELS)
    z = twin.network["projector"](twin.encoder(torch.cat(views)))
    torch.testing.assert_close(loss, 1.7857 * nt_xent(z[:8], z[8:], temperature=0.5), atol=0, rtol=0)
    assert changed(victim, state(twin)) == set()
    apart = build()
    za, zb = (apart.network["projector"](apart.encoder(view)) for view in views)
    assert (1.7857 * nt_xent(za, zb, temperature=0.5) - loss).abs() > 1e-3


def test_temperature_and_scale_are_those_of_the_spec() -> None:
    views = two_views()
    default, scaled, sharp = (
        build(**changes).loss(views, LABELS).item()
        for changes in ({"loss_scale": 1.0}, {"loss_scale": 3.0}, {"loss_scale": 1.0, "temperature": 0.1})
    )
    assert scaled == pytest.approx(3 * default, rel=1e-6)
    assert abs(sharp - default) > 1e-3


def test_labels_play_no_part() -> None:
    victim = build()
    assert torch.equal(victim.loss(two_views(), LABELS), victim.loss(two_views(), LABELS + 1))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_gradient_reaches_both_images_and_every_weight(training: bool) -> None:
    victim = build()
    victim.network.train(training)
    views = [view.requires_grad_() for view in two_views()]
    gradients = torch.autograd.grad(victim.loss(views, LABELS), [*views, *victim.network.parameters()])
    for gradient in gradients[:2]:
        assert gradient.isfinite().all()
        assert (gradient != 0).float().mean() > 0.9
    assert all(gradient.any() for gradient in gradients[2:])


def test_a_frozen_network_still_passes_its_gradient_to_the_images() -> None:
    victim = build()
    victim.network.eval().requires_grad_(False)
    views = [view.requires_grad_() for view in two_views()]
    gradients = torch.autograd.grad(victim.loss(views, LABELS), views)
    assert all((gradient != 0).float().mean() > 0.9 for gradient in gradients)


def test_the_state_of_the_network_is_the_whole_learner() -> None:
    trained, fresh = build(), build(seed=1)
    trained.network.train()
    trained.loss(two_views(), LABELS)  # statistics that a fresh learner does not have
    for victim in (trained, fresh):
        victim.network.eval()
    assert not torch.equal(fresh.loss(two_views(), LABELS), trained.loss(two_views(), LABELS))
    fresh.network.load_state_dict(trained.network.state_dict())
    assert torch.equal(fresh.loss(two_views(), LABELS), trained.loss(two_views(), LABELS))


def test_initial_weights_are_those_of_the_generator() -> None:
    assert changed(build(), state(build())) == set()
    assert "encoder.backbone.0.weight" in changed(build(seed=1), state(build()))


def test_the_encoder_normalises_with_the_sources_statistics_and_the_projector_follows_it() -> None:
    victim = build()
    assert victim.encoder.mean.flatten().tolist() == pytest.approx(SOURCE.mean)
    assert victim.encoder.std.flatten().tolist() == pytest.approx(SOURCE.std)
    assert victim.encoder.features == 8
    assert victim.network["projector"](victim.encoder(two_views()[0])).shape == (8, 6)


def test_the_paper_settings_are_the_defaults() -> None:
    spec = simclr.Spec(kind="simclr", backbone=resnet18.Spec(kind="resnet18"), views=ViewsSpec(size=32))
    assert (spec.lr, spec.temperature, spec.weight_decay, spec.momentum) == (0.5, 0.5, 1e-4, 0.9)
    assert (spec.epochs, spec.batch_size, spec.warmup_epochs) == (1000, 512, 10)
    assert (spec.projector_hidden, spec.projector_out) == (512, 128)
    # temperature / 0.07, and a gradient averaged over four GPUs.
    assert spec.loss_scale == pytest.approx(0.5 / 0.07 / 4, abs=1e-4)
