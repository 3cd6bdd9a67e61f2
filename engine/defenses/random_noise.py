"""Random noise: every image gets fresh independent noise, in which a small perturbation may drown.

Name: Random noise
Paper: He, Zha & Katabi, ICLR 2023, Table 8, rows "Random Noise" (8/255) and (64/255).
Threat model: knows only that the poison is small.
Official code: none; the released code holds no defenses.
Deviations: unverified: whether the paper's number is a standard deviation (ours is) or the bound of uniform noise, as
    in its Table 1, and where its noise was added. Uniform noise of the same standard deviation is offered; it reaches
    to sigma times the root of three, so that a bound of 8/255 is a sigma of 0.0181. Values are clipped to [0, 1]
    after the noise: near black and white less than sigma is left of it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Defense
from engine.spec import ImageDefenseSpec, Number

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Spec(ImageDefenseSpec):
    """Random noise."""

    kind: Literal["random_noise"]
    # The standard deviation, in [0, 1] pixel range.
    sigma: Annotated[Number, Field(gt=0, le=1)]
    distribution: Literal["gaussian", "uniform"] = "gaussian"


def add_gaussian(images_BCHW: Tensor, generator: torch.Generator, *, sigma: float) -> Tensor:
    """Add normal noise and clip to [0, 1]."""
    import torch

    return _add(images_BCHW, torch.empty(images_BCHW.shape).normal_(0, sigma, generator=generator))


def add_uniform(images_BCHW: Tensor, generator: torch.Generator, *, sigma: float) -> Tensor:
    """Add uniform noise and clip to [0, 1]."""
    import torch

    bound = math.sqrt(3) * sigma
    return _add(images_BCHW, torch.empty(images_BCHW.shape).uniform_(-bound, bound, generator=generator))


def _add(images_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    from engine.transfer import to_device

    return (images_BCHW + to_device(noise_BCHW, images_BCHW.device)).clamp(0, 1)


ADD = {"gaussian": add_gaussian, "uniform": add_uniform}


def build(spec: Spec) -> Defense:
    """Build the defense."""
    from engine.training.defending import ImageDefense

    return ImageDefense(partial(ADD[spec.distribution], sigma=spec.sigma), spec.position)
