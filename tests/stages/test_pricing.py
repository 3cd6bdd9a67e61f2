"""Pricing: what is counted of a step, against counts of our own, and what is made of it for other machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from engine import plugins
from engine.cli import app
from engine.errors import EngineError
from engine.machine import Machine
from engine.spec import DatasetSpec
from engine.specfiles import load
from engine.stages.calibration import FILE
from engine.stages.plan import Step, forecast
from engine.stages.pricing import Pricing, _count, _Held, _learner_bytes
from engine.stages.rehearsal import Learning, Pace, Rehearsal, training
from engine.victimspec import VictimSpec

BODY = """
backbone: {kind: resnet18, width: 16, stages: [1, 1, 1, 1], stem: cifar_stride2}
views: {size: 32}
batch_size: 128
lr: 0.5
"""
LEARNERS = {
    "simclr": BODY,
    "moco_v2": f"{BODY}queue: 512\n",
    "byol": f"{BODY}hidden: 512\nprojector_out: 128\n",
    "supervised": BODY,
}
MINI = "mini_simclr"


@pytest.fixture(autouse=True)
def _learners(project: Path) -> None:
    """Declare a small learner of each kind."""
    for kind, text in LEARNERS.items():
        (project / f"specs/victims/mini_{kind}.yaml").write_text(f"kind: {kind}{text}")


def learning(victim: VictimSpec | str = MINI, defense: str | None = "none", dataset: str = "cifar10") -> Learning:
    images: DatasetSpec = load("datasets", dataset)
    spec: VictimSpec = load("victims", victim) if isinstance(victim, str) else victim
    return Learning(spec, images, load("defenses", defense) if defense else None)


def forward_flops(network: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """Two for every weight and place of convolutions and linear layers, of one image; and those of the first layer."""
    found: list[int] = []

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        found.append(2 * layer.weight.numel() * (out[0, 0].numel() if out.ndim == 4 else 1))

    hooks = [
        each.register_forward_hook(count) for each in network.modules() if isinstance(each, (nn.Conv2d, nn.Linear))
    ]
    network.eval()(image)
    for hook in hooks:
        hook.remove()
    return sum(found), found[0]


@pytest.mark.parametrize("victim", ["mini_simclr", "mini_supervised"])
def test_a_step_takes_three_forward_passes_but_for_the_gradient_of_the_images(victim: str) -> None:
    network = training(learning(victim), Machine.of("cpu", "fp32")).network
    assert isinstance(network, nn.ModuleDict)
    whole = nn.Sequential(network["encoder"], network["projector" if "projector" in network else "classifier"])
    total, first = forward_flops(whole, torch.zeros(1, 3, 32, 32))
    price = Pricing(1, 1, "fp32").price(learning(victim))
    assert price.flops == pytest.approx(3 * total - first, rel=1e-3)  # the rest is the loss's own matrix


def test_the_papers_network_takes_what_is_known_of_it() -> None:
    # ResNet-18 for CIFAR: 0.56 billion multiplications and additions a forward pass.
    assert Pricing(1, 1, "fp32").price(learning("simclr")).flops == pytest.approx(6 * 0.5556e9, rel=5e-3)
    assert Pricing(1, 1, "fp32").price(learning("simclr", None)).flops == pytest.approx(2 * 0.5556e9, rel=5e-3)


def test_a_target_branch_costs_a_forward_pass() -> None:
    pricing = Pricing(1, 1, "fp32")
    simclr, moco, byol = (pricing.price(learning(f"mini_{name}")).flops for name in ("simclr", "moco_v2", "byol"))
    # Of two views, MoCo trains on one and encodes the other; BYOL trains on both and encodes both.
    assert moco / simclr == pytest.approx(4 / 6, rel=0.03)
    assert byol / simclr == pytest.approx(8 / 6, rel=0.1)  # its heads are larger


def test_what_is_kept_counts_once_and_until_it_is_released() -> None:
    weight = torch.ones(10, requires_grad=True)
    held = _Held({weight.untyped_storage().data_ptr()})
    with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
        loss = ((weight * 1.0).exp().exp() * weight).sum()
        # Kept are both exponentials; the second one twice, and the weight, which is the learner's own.
        assert held.now == held.most == 2 * 40
        loss.backward()
    assert (held.now, held.most) == (0, 80)


def test_a_learner_keeps_gradients_and_momentum_of_what_it_trains() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert _learner_bytes(layer) == 4 * (3 * 6 + 2)


def test_memory_is_one_images_share_and_what_is_kept_in_any_case() -> None:
    machine = Machine.of("cpu", "fp32")
    price = Pricing(1, 1, "fp32").price(learning())
    assert price.held is not None
    assert price.fixed is not None
    eight = learning(load("victims", MINI).model_copy(update={"batch_size": 8}))
    told = training(eight, machine)
    predicted = price.fixed + 8 * price.held
    assert predicted == pytest.approx(_count(told, machine)[1] + _learner_bytes(told.network), rel=0.01)


def test_paces_follow_from_the_speed_and_the_share_of_a_batch() -> None:
    one, four = Pricing(10, 1, "fp32"), Pricing(20, 4, "fp32")
    price = one.price(learning())
    alone, shared = one.pace(learning()), four.pace(learning())
    assert alone.seconds == 2 * shared.seconds == price.flops / 10e12
    assert alone.memory is not None
    assert shared.memory is not None
    assert alone.memory - shared.memory == price.held * (128 - 32)
    assert one.pace(learning(MINI, None)).memory is None


def test_a_price_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pricing = Pricing(1, 1, "fp32")
    price = pricing.price(learning())
    monkeypatch.setattr("engine.stages.pricing._count", lambda told, machine: pytest.fail("counted again"))
    longer = load("victims", MINI).model_copy(update={"epochs": 999})
    assert pricing.price(learning(longer)) == pricing.price(learning(dataset="cifar100")) == price


def test_half_precision_keeps_less() -> None:
    full, half = (Pricing(1, 1, precision).price(learning()) for precision in ("fp32", "fp16"))
    assert half.flops == pytest.approx(full.flops, rel=1e-3)
    assert half.held is not None
    assert full.held is not None
    assert half.held < 0.8 * full.held


def test_a_defense_that_reads_labels_of_its_own_is_counted() -> None:
    pricing = Pricing(1, 1, "fp32")
    plain, hard = (pricing.price(learning(MINI, name)) for name in ("none", "advcl_mini"))
    # Five steps of search and one of training, each of two views, where there were two; the high-frequency view; two
    # of the views are passed backwards to their pixels too.
    assert 5 < hard.flops / plain.flops < 9


def test_a_defense_that_cannot_be_rehearsed_says_so(project: Path) -> None:
    values = {"kind": "advcl", "clusters": [2000]}
    (project / "specs/defenses/many.yaml").write_text(json.dumps(values))
    with pytest.raises(
        EngineError, match=r"cannot be rehearsed on 512 random images.*--no-calibrate.*lower the defense"
    ):
        Pricing(1, 1, "fp32").price(learning(MINI, "many"))


def test_an_attacks_images_and_its_part_of_the_noise_are_added() -> None:
    step = Step("generate@p", (), 10, images=1000, noise=2000)
    assert forecast(step, Pace(1.0, 50), 4).memory == 50 + 1000 + 500
    assert forecast(step, Pace(1.0, None), 4).memory is None


def test_plan_prices_a_machine_that_is_not_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_DATA", str(project / "nowhere"))
    done = CliRunner().invoke(app, ["plan", "quickstart", "--tflops", "0.5", "--layout", "torchrun_4"])
    assert done.exit_code == 0, done.output
    assert "on a GPU that sustains 0.5 TFLOP/s" in done.output
    assert "predicted, not measured" in done.output
    assert "has 4 processes" in done.output
    assert not FILE.exists()


@pytest.mark.parametrize("kind", plugins.kinds("datasets"))
def test_kinds_of_a_fixed_size_say_it(project: Path, kind: str) -> None:
    known = {
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "fashion_mnist": (60_000, 10_000),
        "imagenet100": (126_700, 5_000),
        "stl10": (5_000, 8_000),
    }
    values: dict[str, object] = {"kind": kind, "image_size": 32, "train_per_class": 7, "test_per_class": 3}
    values |= {"path": "p"} if kind == "imagefolder" else {}
    (project / "specs/datasets/d.yaml").write_text(json.dumps(values))
    spec = load("datasets", "d")
    classes = spec.num_classes
    assert spec.counts == ((7 * classes, 3 * classes) if classes else (None, None))
    whole = {**values, "train_per_class": None, "test_per_class": None}
    if kind != "scenes":  # rendered: as many as are asked for
        (project / "specs/datasets/d.yaml").write_text(json.dumps(whole))
        assert load("datasets", "d").counts == known.get(kind, (None, None))


def test_a_rehearsal_takes_the_views_of_its_batch() -> None:
    few = load("victims", MINI).model_copy(update={"batch_size": 3})
    told: Rehearsal = training(learning(few), Machine.of("cpu", "fp32"))
    assert told.images == 6
