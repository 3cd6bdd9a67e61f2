"""A noise step of Contrastive Poisoning, over its network alone."""

from __future__ import annotations

import functools
from typing import Any

import torch

from benchmarks.lab import Lab, machine
from benchmarks.pictures import image_set
from benchmarks.registry import Pair, benchmark
from benchmarks.timing import Timing, alternate, whole
from benchmarks.trainees import SOURCE, VICTIMS, bare, resident_u8
from engine.attacks import contrastive_poisoning as cp
from engine.journal import Journal
from engine.protocols import AttackContext
from engine.specfiles import load

TITLE = "Noise steps"
NOTE = (
    "One step of projected gradient descent on sample-wise noise: add the noise, make two views, loss, gradient back "
    "to the noise, signed step, projection; and a fifth of gathering a batch and, five steps later, writing its noise "
    "back. The bare network runs forwards and backwards to views that are there already, frozen, in evaluation mode."
)
ATTACKS = {"tiny": "protect_cp_sample", "resnet18": "cp_sample"}  # files of specs/attacks
STEP, BARE = "noise step", "bare network"


@benchmark("ms", target=1.1, better="smaller")
def pgd_over_bare(lab: Lab) -> Pair:
    """Noise step of Contrastive Poisoning over forward and backward to its views, the mini studies' network."""
    timings = _timings(lab, "tiny")
    return Pair(1e3 * timings[STEP].median, 1e3 * timings[BARE].median)


def rows(lab: Lab) -> list[dict[str, Any]]:
    """Return the noise steps of both networks."""
    found = []
    for network in VICTIMS:
        timings = _timings(lab, network)
        for name, timing in timings.items():
            low, high = (1e3 * each for each in timing.quartiles)
            over = timing.median / timings[BARE].median
            found.append({"network": network, "batch": lab.batch, "step": name, "ms": 1e3 * timing.median})
            found[-1] |= {"lower quartile": low, "upper quartile": high, "over the bare network": over}
    return found


@functools.cache
def _timings(lab: Lab, network: str) -> dict[str, Timing]:
    spec = attack_spec(network, lab.batch, pgd_steps=5)
    search = start_search(spec, lab)
    alone = bare(search.pair.victim, lab)
    works = {
        STEP: whole(search.learn_noise, units=spec.pgd_steps),
        BARE: whole(alone.attack, calls=spec.pgd_steps),
    }
    repeats = lab.slow_repeats if network == "resnet18" else lab.repeats
    # Started, the search has taken its memory from the system already: no warmup.
    return alternate(works, repeats=repeats, warmups=0, clock=lab.clock)


def attack_spec(network: str, batch: int, *, pgd_steps: int) -> cp.Spec:
    """Return a committed attack with the smallest schedule: one round of one model step and one batch of noise."""
    spec: cp.Spec = load("attacks", ATTACKS[network])
    surrogate = spec.surrogate.model_copy(update={"batch_size": batch, "bn_group_size": None})
    schedule = {"rounds": 1, "restarts": 0, "model_steps": 1, "noise_steps": 1, "pgd_steps": pgd_steps}
    return spec.model_copy(update={"surrogate": surrogate, **schedule})


def start_search(spec: cp.Spec, lab: Lab) -> cp._Search:
    """Return the attack's own state after its model step and its first noise step, which freezes the surrogate.

    It is private to the attack: whoever changes it changes this too, and the tests say so.
    """
    images = image_set(resident_u8(lab))
    perturbed = torch.ones(len(images), dtype=torch.bool)
    context = AttackContext(SOURCE, "uniform", perturbed, machine(lab), lambda done, of, note: None, Journal())
    search = cp._Search(spec, images, context)
    search.set_lr(0)
    search.train_surrogate()
    search.learn_noise()
    return search
