"""Matrix completion a second, against NumPy image by image and torch in batches; and what it adds to a step."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lab import Lab
from benchmarks.pictures import photo_like
from benchmarks.registry import Pair, benchmark
from benchmarks.themes.steps import STEP, step_timings
from benchmarks.timing import Timing, alternate, whole
from benchmarks.trainees import VICTIMS
from engine import completion, plugins
from engine.randomness import stream
from engine.specfiles import load

TITLE = "Matrix completion"
NOTE = (
    "Best approximations of rank 16 of matrices of 32 x 96: the channels of 32 x 32 images, a quarter of whose values "
    "is missing. The whole defense also draws what is missing, scales and clips; what it adds to a pretraining step is "
    "its time for two views of a batch, over that of the step without it. NumPy and torch's singular values are in "
    "single precision, the rest in double."
)
SIZE, KEEP = 32, 16
OURS, DEFENSE, NUMPY = "engine", "engine, the whole defense", "NumPy, image by image"
SVD, EIGH = "torch.linalg.svd", "torch.linalg.eigh of the products"


@benchmark("images/s", target=3)
def completion_vs_numpy(lab: Lab) -> Pair:
    """Approximations of rank 16 of 32 x 96 matrices, against NumPy's singular values image by image."""
    timings = _timings(lab)
    return Pair(1 / timings[OURS].median, 1 / timings[NUMPY].median)


def rows(lab: Lab) -> list[dict[str, Any]]:
    """Return every way to approximate, and what the defense adds to the steps of both networks."""
    timings = _timings(lab)
    found = []
    for name, timing in timings.items():
        row: dict[str, Any] = {"what": name, "images/s": 1 / timing.median}
        row["over NumPy"] = timings[NUMPY].median / timing.median
        for network in VICTIMS:
            step = step_timings(lab, network)[STEP].median
            row[f"added to a step, {network}"] = 2 * lab.batch * timing.median / step if name == DEFENSE else None
        found.append(row)
    return found


@functools.cache
def _timings(lab: Lab) -> dict[str, Timing]:
    """Time an image of each."""
    images, draws = photo_like(lab.small_images, SIZE), stream(0, "benchmarks", "completion")
    defense = plugins.build("defenses", load("defenses", "matrix_completion"))
    matrices = (2 * images - 1).transpose(1, 2).flatten(2)
    matrices *= torch.rand(matrices.shape, generator=draws) >= 0.25
    works = {
        OURS: lambda: completion.truncate(matrices, keep=KEEP),
        DEFENSE: lambda: defense.transform(images, draws),
        NUMPY: lambda: _by_numpy(matrices),
        SVD: lambda: _by_svd(matrices),
        EIGH: lambda: completion._by_torch(matrices, KEEP),
    }
    timed = {name: whole(work, units=lab.small_images) for name, work in works.items()}
    return alternate(timed, repeats=lab.repeats, warmups=1, clock=lab.clock)


def _by_numpy(matrices_BRC: Tensor) -> Tensor:
    results = np.empty(matrices_BRC.shape, np.float32)
    for result, matrix in zip(results, matrices_BRC.numpy(), strict=True):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        result[:] = (left[:, :KEEP] * values[:KEEP]) @ right[:KEEP]
    return torch.from_numpy(results)


def _by_svd(matrices_BRC: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(matrices_BRC, full_matrices=False)
    return (left[..., :KEEP] * values[:, None, :KEEP]) @ right[:, :KEEP]
