"""How single files of a study are read back: validated JSON, and training curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from engine.artifacts.files import ArtifactError, read_json
from engine.protocols import MEASURES

Parsed = TypeVar("Parsed", bound=BaseModel)


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
        raise ArtifactError(
            f"{file} holds no {model.__name__.lower()}: {where}: {fault['msg']}; run the stage again"
        ) from error


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
