"""What learners declare: their views and how they train."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from engine.spec import BackboneSpec, Number, Positive, Range, Spec, Unit

PRESETS = Path(__file__).parent / "views" / "presets"


class ViewsSpec(Spec):
    """A distribution over augmented views; the defaults are the paper's CIFAR views.

    ``preset`` takes the values of a published recipe; a key beside it wins.

    Source: official code, torchvision transforms of both attacker and victim (no blur).
    """

    preset: str | None = None
    size: Positive
    crop_scale: tuple[Unit, Unit] | None = (0.2, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    # Where there is no resized crop: a random crop of the image with so many black pixels around it, or a
    # bilinear shift by up to so many pixels.
    padding: Annotated[int, Field(ge=0)] = 0
    shift: Annotated[float, Field(ge=0)] = 0.0
    flip: Unit = 0.5
    jitter: tuple[Unit, Unit, Unit, Annotated[float, Field(ge=0, le=0.5)]] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: Unit = 0.8
    grayscale: Unit = 0.2
    blur_probability: Unit = 0.0
    blur_sigma: Range = (0.1, 2.0)
    blur_kernel: Positive = 23
    solarize_probability: Unit = 0.0
    solarize_threshold: Annotated[Number, Field(ge=0, le=1)] = 128 / 255
    # Round after each operation as Pillow does, with a straight-through gradient; several times slower.
    eight_bit: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return what ``engine.views.Views`` is made of."""
        return self.model_dump(exclude={"preset"})

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # What a validator hands on counts as Python's, where a strict tuple refuses the lists of YAML.
        data = {key: _frozen(value) for key, value in data.items()}
        if not isinstance(data.get("preset"), str):
            return data
        if data["preset"] not in (known := presets()):
            raise ValueError(f"preset: given {data['preset']!r}, allowed: {', '.join(known)}")
        return {**known[data["preset"]], **data}

    @model_validator(mode="after")
    def _consistent(self) -> ViewsSpec:
        for field in ("crop_scale", "crop_ratio", "blur_sigma"):
            bounds = getattr(self, field)
            if bounds is not None and bounds[0] > bounds[1]:
                raise ValueError(f"{field}: must be [low, high], given {list(bounds)}")
        ways = [field for field in ("crop_scale", "padding", "shift") if getattr(self, field)]
        if len(ways) > 1:
            raise ValueError(f"{ways[1]}: excludes {ways[0]}; set {ways[0]} to {'null' if self.crop_scale else 0}")
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel: must be odd, given {self.blur_kernel}")
        if self.blur_probability > 0 and self.blur_kernel // 2 >= self.size:
            raise ValueError(f"blur_kernel: {self.blur_kernel} reaches over a view of {self.size} pixels")
        return self


@functools.cache
def presets() -> dict[str, dict[str, Any]]:
    """Return the published recipes of views: the YAML files of ``engine/views/presets``."""
    from ruamel.yaml import YAML

    return {
        file.stem: {key: _frozen(value) for key, value in YAML(typ="safe").load(file).items()}
        for file in sorted(PRESETS.glob("*.yaml"))
    }


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class VictimSpec(Spec):
    """What every learner declares: how it is trained. The defaults are the paper's CIFAR protocol.

    Source: He, Zha & Katabi 2023, appendix B.2 and Table 9; official code for warm-up and final rate.
    """

    # Whether it learns the classes with a classifier, from one view: what aims at classes asks for it.
    classifies: ClassVar[bool] = False

    kind: str
    backbone: BackboneSpec
    views: ViewsSpec
    epochs: Positive = 1000
    batch_size: Annotated[int, Field(ge=2)] = 512
    lr: Annotated[float, Field(gt=0)]
    momentum: Unit = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    final_lr_rel: Unit = 1e-3
    # How many images are batch-normalised together; null: the whole batch. Official poison generation: the 128
    # of one of its four GPUs.
    bn_group_size: Annotated[int, Field(ge=2)] | None = None

    @property
    def bn_groups(self) -> int:
        """Return into how many equal groups batch norm divides a training batch."""
        return self.batch_size // (self.bn_group_size or self.batch_size)

    @property
    def views_per_image(self) -> int:
        """Return how many views of an image a step learns from."""
        return 1

    def image_views(self, images: int) -> int:
        """Return how many augmented images a training on so many sends forwards and backwards: of whole batches."""
        return self.epochs * (images // self.batch_size * self.batch_size) * self.views_per_image

    def recipe(self) -> dict[str, Any]:
        """Return what ``engine.training.pretrain.Recipe`` is made of."""
        fields = {"epochs", "batch_size", "lr", "momentum", "weight_decay", "warmup_epochs", "final_lr_rel"}
        return self.model_dump(include=fields)

    @model_validator(mode="after")
    def _fits(self) -> VictimSpec:
        if self.bn_group_size and self.batch_size % self.bn_group_size:
            raise ValueError(f"bn_group_size: must divide batch_size ({self.batch_size}), given {self.bn_group_size}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: must be less than epochs ({self.epochs}), given {self.warmup_epochs}")
        if fault := self.backbone.size_fault(self.views.size):
            raise ValueError(f"views.size: {fault}")
        return self


class TwoViewVictimSpec(VictimSpec):
    """What learners that compare two views declare."""

    # The second view's distribution, where it differs from the first one's, as in BYOL.
    views_b: ViewsSpec | None = None

    @property
    def both_views(self) -> tuple[ViewsSpec, ViewsSpec]:
        """Return the distributions of the first and the second view."""
        return self.views, self.views_b or self.views

    @property
    def views_per_image(self) -> int:
        """Return how many views of an image a step compares."""
        return 2

    @model_validator(mode="after")
    def _equal_sizes(self) -> TwoViewVictimSpec:
        if self.views_b is not None and self.views_b.size != self.views.size:
            raise ValueError(f"views_b.size: must be the first view's {self.views.size}, given {self.views_b.size}")
        return self
