"""Schedules and steps against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from engine.optimization import cosine_lr, descend, set_lr, sgd, warmup_cosine_lr

# The official code's CIFAR run: 50 000 images in whole batches of 512 are 97 steps an epoch, 1000 epochs,
# 10 of them warm-up, and a final rate of lr * 0.1 ** 3.
PAPER = {"steps_per_epoch": 97, "epochs": 1000, "warmup_epochs": 10, "final_lr_rel": 1e-3}


def first_step(epoch: int) -> int:
    return (epoch - 1) * PAPER["steps_per_epoch"]


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        # 0.0005 + 0.4995 (1 + cos(pi epoch / 1000)) / 2
        (11, 0.499_850_886),
        (250, 0.426_849_919),
        (500, 0.250_25),
        (750, 0.073_650_081),
        (1000, 0.0005),
    ],
)
def test_after_the_warm_up_the_rate_is_the_published_cosine(epoch: int, expected: float) -> None:
    assert warmup_cosine_lr(first_step(epoch), lr=0.5, **PAPER) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("lr", "end"),
    # The cosine's value at epoch 10 of 1000: 0.99975328 of the way from lr / 1000 to lr.
    [(0.5, 0.499_876_763), (0.3, 0.299_926_058), (1.0, 0.999_753_527)],
)
def test_the_warm_up_climbs_linearly_from_a_hundredth_to_the_cosine_of_its_last_epoch(lr: float, end: float) -> None:
    rates = [warmup_cosine_lr(step, lr=lr, **PAPER) for step in range(first_step(11))]
    assert len(rates) == 970
    assert rates[0] == 0.01
    assert rates[485] == pytest.approx((0.01 + end) / 2, abs=1e-9)
    assert rates[969] == pytest.approx(0.01 + (end - 0.01) * 969 / 970, abs=1e-9)


def test_a_rate_below_a_hundredth_does_not_start_above_itself() -> None:
    rates = [warmup_cosine_lr(step, lr=0.004, **PAPER) for step in range(first_step(12))]
    assert rates[0] == 0.004
    assert max(rates) == 0.004


def test_after_the_warm_up_the_rate_is_constant_within_an_epoch() -> None:
    rates = [{warmup_cosine_lr(first_step(epoch) + i, lr=0.5, **PAPER) for i in range(97)} for epoch in (11, 12)]
    assert [len(rate) for rate in rates] == [1, 1]
    assert rates[0] != rates[1]


def test_without_warm_up_the_first_epoch_is_on_the_cosine() -> None:
    rate = warmup_cosine_lr(0, steps_per_epoch=5, epochs=4, warmup_epochs=0, lr=1.0, final_lr_rel=0.0)
    assert rate == pytest.approx(0.853_553_391, abs=1e-9)  # (1 + cos(pi / 4)) / 2


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 2.0), (0.5, 1.1), (1.0, 0.2), (1 / 3, 1.55)])
def test_cosine_goes_from_the_rate_to_its_final_fraction(progress: float, expected: float) -> None:
    assert cosine_lr(progress, lr=2.0, final_lr_rel=0.1) == pytest.approx(expected, abs=1e-12)


def test_every_parameter_group_gets_the_rate() -> None:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 2.0}])
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_descend_takes_steps_of_momentum_and_weight_decay() -> None:
    # loss 3 w^2 / 2; g = 3 w + 0.1 w; v = 0.9 v + g, without dampening; w = w - 0.1 v, without Nesterov.
    #   w 2.0     g 6.2      v 6.2       w 1.38
    #   w 1.38    g 4.278    v 9.858     w 0.3942
    #   w 0.3942  g 1.22202  v 10.09422  w -0.615222
    weight = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = sgd([weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    trajectory = []
    for _ in range(3):
        descend((1.5 * weight**2).sum(), optimizer)
        trajectory.append(weight.item())
    assert trajectory == pytest.approx([1.38, 0.3942, -0.615222], abs=1e-12)


def test_descend_does_not_add_to_an_older_gradient() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    weight.grad = torch.tensor([100.0])
    descend(weight.sum(), sgd([weight], lr=0.5, momentum=0.0, weight_decay=0.0))
    assert weight.item() == 1.5
