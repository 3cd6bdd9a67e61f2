"""ResNet-18, with the CIFAR stem and a width, so that a tiny one runs on a CPU.

Name: ResNet-18
Paper: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
Official code: kaiwenzha/contrastive-poisoning, resnet.py (3 x 3 stem, stride 1, no max-pool).
Deviations: width and the number of blocks per stage are fields; the defaults are ResNet-18's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Source
from engine.residual import ResidualSpec, residual_network
from engine.spec import Positive

if TYPE_CHECKING:
    from engine.networks import Encoder


class Spec(ResidualSpec):
    """ResNet-18 and its smaller relatives."""

    kind: Literal["resnet18"]
    stages: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = (2, 2, 2, 2)


def build(spec: Spec, *, source: Source) -> Encoder:
    """Build the network; its weights are drawn by the learner it belongs to."""
    from torchvision.models.resnet import BasicBlock

    from engine.networks import Encoder

    backbone, features = residual_network(BasicBlock, width=spec.width, stages=spec.stages, stem=spec.stem)
    return Encoder(backbone, mean=source.mean, std=source.std, features=features)
