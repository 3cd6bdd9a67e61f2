"""What single files of a study hold, and how they are read back: validated JSON, and training curves."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.artifacts.files import ArtifactError, read_json
from engine.protocols import MEASURES

Parsed = TypeVar("Parsed", bound=BaseModel)
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]


class ViewDistances(BaseModel):
    """How far apart two views of an image are: histograms of released images, and of their clean originals.

    Units: edges in cosine distance, from 0 to 2; the others in images, one number between two edges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    edges: tuple[float, ...]
    released: tuple[Count, ...]
    clean: tuple[Count, ...] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for counts in filter(None, (self.released, self.clean)):
            if len(counts) != len(self.edges) - 1 or not any(counts):
                raise ValueError("needs one more edge than bins, and an image")
        return self


class Accuracy(BaseModel):
    """What a probe measured, and how.

    Units: linear, knn and head in percent; head is the learner's own classifier, where it has one. The precision is
    that of the training; a probe computes in float32, and an untrained network has no other. Distances of views
    are measured on the data set that the encoder was trained on alone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    linear: Percent
    knn: Percent
    head: Percent | None = None
    train_set: str
    select: str
    train_images: int
    test_images: int
    numerics: int
    precision: str = "fp32"
    view_distances: ViewDistances | None = None

    @property
    def protocol(self) -> tuple[str, str, int]:
        """Return what two numbers must share before one may be subtracted from the other."""
        return self.train_set, self.select, self.numerics

    def judged_like(self, other: Accuracy | None) -> Accuracy | None:
        """Return the other accuracies where they were measured in the same way."""
        return other if other is not None and other.protocol == self.protocol else None


class MeasuredPerturbation(BaseModel):
    """What a poison adds to images; of one that perturbs none, ``images`` is 0 and everything else null.

    ``labels`` are of the images that were looked at, in their order, ``points`` of the first of them.

    Units: psnr in decibels, l2 in [0, 1] pixel range, separability and chance from 0 to 1, spectra in grey levels².
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    images: Count
    psnr: float | None
    ssim: float | None
    l2: float | None
    separability: Annotated[float, Field(ge=0, le=1)] | None
    chance: Annotated[float, Field(ge=0, le=1)] | None
    labels: list[Count]
    points: list[Annotated[list[float], Field(min_length=2, max_length=2)]] | None
    spectrum: list[float] | None
    clean_spectrum: list[float] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.labels) != self.images or len(self.points or ()) > self.images:
            raise ValueError("needs a label an image, and no more points than images")
        if self.images and not (self.spectrum and self.clean_spectrum):
            raise ValueError("needs spectra of its images")
        return self


class Cost(BaseModel):
    """What a stage took: its time and its peak of memory, and on what kind of device."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    seconds: Seconds
    peak_memory_bytes: Count
    device: str


class TrainingCost(Cost):
    """What a training took, and an epoch of it."""

    seconds_per_epoch: Seconds


class Curve(NamedTuple):
    """The loss of every epoch of a run, and what was measured at some: NaN at the others.

    Shapes: all [epochs].
    """

    epochs: np.ndarray
    losses: np.ndarray
    measures: Mapping[str, np.ndarray] = MappingProxyType({})

    def measured(self, name: str) -> Curve | None:
        """Return a measure in the losses' place, at the epochs that have it; None where no epoch has."""
        values = self.measures.get(name, np.full(len(self.epochs), np.nan))
        there = np.isfinite(values)
        return Curve(self.epochs[there], values[there]) if there.any() else None


def parse(file: Path, model: type[Parsed]) -> Parsed:
    """Read a JSON file as a model.

    Raises:
        ArtifactError: it is missing, or holds something else.
    """
    content = read_json(file)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        noun = re.sub(r"(?<!^)(?=[A-Z])", " ", model.__name__).lower()
        raise ArtifactError(f"{file} holds no {noun}: {where}: {fault['msg']}; run the stage again") from error


def read_curve(file: Path) -> Curve:
    """Read a training curve; one of an older version has no measures.

    Raises:
        ArtifactError: it is missing, or holds something else.
    """
    try:
        with file.open(newline="") as stream:
            header, *lines = csv.reader(stream)
        columns = dict(zip(header, zip(*lines, strict=True), strict=True))
        measures = {name: _numbers(columns[name]) for name in MEASURES if name in columns}
        curve = Curve(np.array([*map(int, columns["epoch"])]), np.array([*map(float, columns["loss"])]), measures)
        if not np.isfinite(curve.losses).all():
            raise ValueError("it has a loss that is no number")
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; run `dvc repro` to make it") from None
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{file} is not a training curve ({error}); run the stage again") from error
    return curve


def _numbers(column: Sequence[str]) -> np.ndarray:
    return np.array([float(value) if value else np.nan for value in column])
