"""The vocabulary of spec files: strict, frozen models and the number types that YAML may spell.

Plugins derive their own ``Spec`` from the group classes below. A spec is parsed once, never changed.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

if TYPE_CHECKING:
    from engine.victimspec import VictimSpec

NAME_PATTERN = r"^[a-z0-9_]+$"
PATH_PATTERN = r"^[a-z0-9_]+(/[a-z0-9_]+)?$"
FRACTION_PATTERN = r"^\s*\d+(\.\d+)?\s*/\s*\d+\s*$"


def _parse_fraction(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{value!r} is neither a number nor a fraction such as 8/255") from None


Number = Annotated[
    float,
    BeforeValidator(_parse_fraction),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": FRACTION_PATTERN}]}),
]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
StudyName = Annotated[str, Field(pattern=PATH_PATTERN)]
"""A study's file below ``specs/studies``, without its suffix: it may lie in a folder."""
Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
RGB = tuple[float, float, float]
Scale = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


def _stay_inside(path: str) -> str:
    parts = PurePath(path).parts
    if ".." in parts and not PurePath(path).is_absolute():
        raise ValueError("must not leave the data root with '..'; give an absolute path instead")
    return path


DataPath = Annotated[str, Field(min_length=1), AfterValidator(_stay_inside)]
"""A place below the data root (``ENGINE_DATA``, by default ``data``), or an absolute path."""


class Spec(BaseModel):
    """A declared thing: no unknown keys, no coercion, no change after parsing."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True, allow_inf_nan=False)


class DatasetSpec(Spec):
    """What every data set declares: its pixels' statistics, and optionally a subset and a resize."""

    # How many classes the kind has, and how many training and test images, where it fixes them.
    num_classes: ClassVar[int | None] = None
    whole: ClassVar[tuple[int, int] | None] = None

    kind: str
    mean: RGB = (0.5, 0.5, 0.5)
    std: Scale = (0.25, 0.25, 0.25)
    # Images of other sizes are resized to it, once, with Pillow's antialiased bilinear filter. Nothing else resizes
    # a data set: to probe an encoder of 32 pixels on STL-10, declare STL-10 with 32.
    image_size: Annotated[int, Field(ge=8)]
    train_per_class: Positive | None = None
    test_per_class: Positive | None = None
    subset_seed: int = 0

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """Return how many training and test images there are; None where only the images themselves say it."""
        train, test = self.whole or (None, None)
        if self.train_per_class:
            train = self.num_classes and self.train_per_class * self.num_classes
        if self.test_per_class:
            test = self.num_classes and self.test_per_class * self.num_classes
        return train, test


class AttackSpec(Spec):
    """What every attack declares."""

    # Whether the attack itself decides when it has done enough.
    may_end_early: ClassVar[bool] = False
    # Whether another seed makes another poison.
    draws: ClassVar[bool] = True

    kind: str
    epsilon: Annotated[Number, Field(ge=0, le=127 / 255)]
    poison_fraction: Unit = 1.0
    # 'truncate' is the official code's conversion; a pixel can then miss the budget by one grey level.
    quantization: Literal["round", "truncate"] = "round"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def withheld_fraction(self) -> float:
        """Return which share of every class is not released at all."""
        return 0.0

    @property
    def learner(self) -> VictimSpec | None:
        """Return the surrogate whose steps are the attack's work; None where nothing is learnt."""
        return None

    def image_views(self, images: int) -> int:
        """Predict what an attack on so many images counts as its cost; where it ``may_end_early``, at most."""
        return 0


class BackboneSpec(Spec):
    """What every backbone declares."""

    kind: str

    @property
    def smallest_size(self) -> int:
        """Return the smallest image side: that for which the last feature map is one pixel."""
        return 1

    def size_fault(self, size: int) -> str | None:
        """Say why images of a size do not fit; None where they do."""
        if size >= self.smallest_size:
            return None
        return f"given {size}, but this {self.kind} takes images of {self.smallest_size} pixels or more"


class DefenseSpec(Spec):
    """What every defense declares."""

    kind: str

    def victim_fault(self, victim: VictimSpec) -> str | None:
        """Say why the defense cannot defend a victim; None where it can."""
        return None


Position = Literal["dataset", "batch", "before_view", "after_view"]


class ImageDefenseSpec(DefenseSpec):
    """What a defense that changes pixels declares: where in the chain it stands.

    ``dataset``: once, before training, on the eight-bit images. ``batch``: at every step before the views, which all
    share the result. ``before_view``: anew for each view, before its crop. ``after_view``: anew for each view, after
    its crop, flip and colours. The paper says it of no defense.
    """

    position: Position = "after_view"


class ExecutorSpec(Spec):
    """What every layout declares: where a stage runs, and on what. No result depends on it."""

    kind: str
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Positive | None = None
    channels_last: bool = True
    # Compile networks with torch.compile: pays on a GPU and in long runs; hardly anything on a CPU (docs/log.md).
    compile: bool = False
    # Training images stay on the device up to this size, decoded, in GB of 1e9 bytes; larger sets are decoded
    # batch by batch, which changes no result. 0: none stay; null: half of the device's free memory.
    resident_gb: Annotated[float, Field(ge=0)] | None = None
    # Processes that decode images that do not stay; 0 decodes in the training process itself.
    workers: Annotated[int, Field(ge=0)] = 2
    # How often a long stage writes a checkpoint, from which it goes on after it was stopped.
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 5.0

    @property
    def processes(self) -> int:
        """Return how many processes share the work of a stage that can be shared."""
        return 1

    @property
    def processes_here(self) -> int:
        """Return how many of them run on the computer that starts the stage; 0 where a cluster places all."""
        return 1

    @model_validator(mode="after")
    def _every_process_has_its_own_device(self) -> Self:
        if self.processes > 1 and ":" in self.device:
            raise ValueError(
                f"device {self.device!r} is one GPU, for {self.processes} processes; use auto, cuda or cpu"
            )
        return self

    def machine_fields(self) -> dict[str, Any]:
        """Return what each process of a run is told of its machine."""
        return self.model_dump(include=set(ExecutorSpec.model_fields) - {"kind"})


class LinearProbeSpec(Spec):
    """The linear probe; the defaults are the paper's CIFAR protocol.

    Source: He, Zha & Katabi 2023, appendix B.2; views from the official code.
    """

    epochs: Positive = 100
    batch_size: Positive = 512
    lr: Annotated[float, Field(gt=0)] = 1.0
    momentum: Unit = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    milestones: tuple[Positive, ...] = (60, 75, 90)
    decay: Unit = 0.2
    crop_scale: tuple[Unit, Unit] = (0.2, 1.0)
    # How many augmented copies of the training set are encoded; epochs cycle over them. The paper
    # redraws at every epoch: as many copies as epochs.
    copies: Positive = 100
    select: Literal["last", "best"] = "last"


class KnnProbeSpec(Spec):
    """Weighted k-nearest-neighbour classification of features.

    Source: Wu et al. 2018, section 3.4 (weights exp(cosine / temperature)).
    """

    k: Positive = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07


class ProtocolSpec(Spec):
    """How encoders are judged and, where it is a paper's, what else its numbers rest on.

    ``attacks`` and ``victims`` hold, by kind, fields that specs of a study under this protocol must agree with.
    They are held against them, never put into them: a spec says all that is done.
    """

    attacks: dict[str, dict[str, Any]] = {}
    victims: dict[str, dict[str, Any]] = {}
    train_set: Literal["clean", "poisoned"] = "clean"
    linear: LinearProbeSpec = LinearProbeSpec()
    knn: KnnProbeSpec = KnnProbeSpec()

    def encodings(self, train: int, test: int) -> int:
        """Return how many images a probe sends through the encoder: both halves as they are, and augmented copies."""
        copies = min(self.linear.copies, self.linear.epochs)
        return (1 + copies) * train + 2 * test
