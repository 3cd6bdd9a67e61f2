"""Pricing: what steps take of a device of a declared speed that is not here, from what is counted on this CPU.

Units: bytes; FLOPs, of which a multiplication and an addition are two.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.machine import Machine
from engine.stages.rehearsal import Learning, Pace, Rehearsal, encoding, training

if TYPE_CHECKING:
    from torch import Tensor, nn

FEW, MORE = 2, 3
"""Images of the two batches that are counted: what the second takes beyond the first is an image's, the rest fixed."""


@dataclass(frozen=True)
class Price:
    """What a step takes, whatever takes it.

    ``flops`` are of an image-view or an encoding, ``held`` is what is kept of one image of a batch until the backward
    pass, ``fixed`` what is kept whatever the batch; both are None where there is no such pass.
    """

    flops: float
    held: int | None = None
    fixed: int | None = None


class Pricing:
    """Paces of devices that sustain so many TFLOP/s each, several of which share a batch."""

    unit = "GPU"

    def __init__(self, tflops: float, processes: int, precision: str) -> None:
        self.tflops, self.processes, self.precision = tflops, processes, precision
        self._known: dict[str, Price] = {}

    @property
    def device(self) -> str:
        """Say which devices are priced."""
        return f"a GPU that sustains {self.tflops:g} TFLOP/s"

    def price(self, learning: Learning) -> Price:
        """Return what a step takes, counted where it is not known yet."""
        key = json.dumps(learning.settings, sort_keys=True)
        if key not in self._known:
            # No CPU computes in float16; bfloat16 is as wide.
            machine = Machine.of("cpu", "fp32" if self.precision == "fp32" else "bf16")
            self._known[key] = _price(learning, machine)
        return self._known[key]

    def pace(self, learning: Learning) -> Pace:
        """Return how long a view or an encoding takes, and the memory of one of the devices, of its part of a batch."""
        price = self.price(learning)
        seconds = price.flops / (self.tflops * 1e12)
        if price.held is None or price.fixed is None:
            return Pace(seconds, None)
        return Pace(seconds, price.fixed + price.held * (learning.victim.batch_size // self.processes))

    def explain(self) -> str:
        """Say what was counted, and what that leaves out."""
        return (
            "Times: predicted, not measured: the FLOPs of a step's convolutions and matrix products, forwards and "
            f"backwards, per image-view, at a sustained {self.tflops:g} TFLOP/s a GPU; noise steps are taken to cost "
            "as much. Not counted: all else that a step does, reading and writing, measures, a probe's own head. "
            f"Memory of each GPU, at least, {self.precision}: the tensors that its part of a batch keeps for the "
            "backward pass, the learner's weights, gradients and momentum, an attack's images and its part of the "
            "noise."
        )


@dataclass
class _Held:
    """Counts what autograd keeps, and the most that it kept at a time; a learner's own tensors are left out."""

    own: set[int]
    most: int = 0
    now: int = 0
    holders: Counter[int] = field(default_factory=Counter)

    def keep(self, tensor: Tensor) -> _Kept:
        """Count a tensor, once for all that share its memory."""
        kept = _Kept(tensor, self)
        if kept.place not in self.own:
            if not self.holders[kept.place]:
                self.now += kept.size
                self.most = max(self.most, self.now)
            self.holders[kept.place] += 1
        return kept

    def release(self, kept: _Kept) -> None:
        """Count a tensor no more."""
        if kept.place not in self.own:
            self.holders[kept.place] -= 1
            if not self.holders[kept.place]:
                self.now -= kept.size


class _Kept:
    """One tensor, for as long as autograd keeps it."""

    def __init__(self, tensor: Tensor, held: _Held) -> None:
        self.tensor, self.held = tensor, held
        self.place, self.size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()

    def __del__(self) -> None:
        self.held.release(self)


def _price(learning: Learning, machine: Machine) -> Price:
    """Return what one step takes, from steps of two small batches, or from one encoding."""
    if learning.defense is None:
        told = encoding(learning, machine, FEW)
        return Price(_count(told, machine)[0] / told.images)
    few, more = (training(_with_batch(learning, size), machine) for size in (FEW, MORE))
    (flops_few, held_few), (flops_more, held_more) = (_count(told, machine) for told in (few, more))
    held = (held_more - held_few) // (MORE - FEW)
    fixed = max(held_few - held * FEW, 0) + _learner_bytes(few.network)
    return Price((flops_more - flops_few) / (more.images - few.images), held, fixed)


def _with_batch(learning: Learning, size: int) -> Learning:
    few = learning.victim.model_copy(update={"batch_size": size, "bn_group_size": None})
    return Learning(few, learning.dataset, learning.defense)


def _count(told: Rehearsal, machine: Machine) -> tuple[int, int]:
    """Return a step's FLOPs, and the most that it keeps for the backward pass beside the learner's own tensors."""
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    held = _Held({tensor.untyped_storage().data_ptr() for tensor in told.network.state_dict().values()})
    with (
        machine.run(),
        FlopCounterMode(display=False) as counter,
        saved_tensors_hooks(held.keep, lambda kept: kept.tensor),
    ):
        told.step()
    return counter.get_total_flops(), held.most


def _learner_bytes(network: nn.Module) -> int:
    """Return what a learner keeps: its tensors, and of each that is trained a gradient and a momentum."""
    trained = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
    return sum(tensor.nbytes for tensor in network.state_dict().values()) + 2 * trained
