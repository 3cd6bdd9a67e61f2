"""What a process runs on: device, memory format, precision, compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from engine import plugins
from engine.batching import Resident
from engine.errors import EngineError
from engine.machine import Machine
from engine.protocols import Defense, ImageSet, Source
from engine.randomness import stream
from engine.training.pretrain import Recipe, pretrain

RECIPE = Recipe(epochs=2, batch_size=16, lr=0.1, momentum=0.9, weight_decay=1e-4, warmup_epochs=0, final_lr_rel=1e-3)
VICTIM: dict[str, Any] = {
    "kind": "simclr",
    "backbone": {"kind": "resnet18", "width": 8, "stages": [1]},
    "views": {"size": 8},
}


def machine(precision: str = "fp32", **fields: Any) -> Machine:
    return Machine.of("cpu", precision, **fields)


def losses(**layout: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train the same learner on a layout; return its losses and its weights."""
    where = machine(**layout)
    spec = TypeAdapter(plugins.spec_of("victims")).validate_python(VICTIM, strict=False)
    source = Source((0.5,) * 3, (0.25,) * 3, 2)
    victim = plugins.build("victims", spec, source=source, generator=stream(0, "victim", "init"))
    where.place(victim.network)
    pixels = torch.randint(0, 256, (32, 3, 8, 8), generator=stream(0, "images"), dtype=torch.uint8)
    feed = Resident(ImageSet(pixels, torch.arange(32) % 2, ("a", "b")))
    defense = Defense()
    curve = pretrain(
        victim, feed, recipe=RECIPE, defense=defense, precision=where.precision, seed=0, progress=lambda *_: None
    )
    return [row["loss"] for row in curve], victim.network.state_dict()


def test_half_precision_changes_a_run_a_little_and_keeps_float32_weights() -> None:
    full, _ = losses(precision="fp32")
    half, weights = losses(precision="bf16")
    assert half != full
    # Sixteen bits carry eight of mantissa: a loss of about 6 moves in the second decimal.
    assert half == pytest.approx(full, rel=0.02)
    assert {value.dtype for name, value in weights.items() if name.endswith("weight")} == {torch.float32}


def test_each_process_has_a_gpu_of_its_own_or_the_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Machine.of("auto", "fp32").device == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(EngineError, match=r"starts 3 processes on this computer.*torch sees 2; lower its devices_per"):
        Machine.of("cuda", "fp32")
    assert Machine.of("cpu", "fp32").device == torch.device("cpu")


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(EngineError, match=r"precision 'fp16' was asked of a CPU.*use bf16 or fp32"):
        machine(precision="fp16")


def test_a_missing_gpu_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(EngineError, match="'cuda:0' but torch sees no GPU"):
        Machine.of("cuda:0", "fp32")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="'fp8' is not known; allowed: fp32, bf16, fp16"):
        machine("fp8")


@pytest.mark.parametrize("channels_last", [True, False])
def test_networks_take_the_layouts_memory_format(channels_last: bool) -> None:
    placed = machine(channels_last=channels_last).place(nn.Conv2d(8, 8, 3))
    assert placed.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_the_memory_format_leaves_the_numbers_alone() -> None:
    # The same sums in another order: a few of a float's last bits, through twelve steps.
    assert losses(channels_last=True)[0] == pytest.approx(losses(channels_last=False)[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's own
def test_compiled_networks_learn_the_same_and_keep_their_names() -> None:
    plain, weights = losses()
    compiled, compiled_weights = losses(compile=True)
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert list(compiled_weights) == list(weights)


def test_a_run_restores_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    with machine(threads=before + 1).run():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
