"""The numbers of reports, read from the files that are committed with them; artifacts are never looked at."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.artifacts.files import read_json
from engine.errors import EngineError

Line = Mapping[str, str]
STUDY, ACCURACY, TRAINING, PERTURBATIONS = "study.json", "accuracy.csv", "training.csv", "perturbations.csv"
COORDINATES = ("cell", "poison", "downstream")
RESTORE = "restore the report from git, or make it again"


class NotMeasured(Exception):
    """A number that no report has; the message says which, and what would make it."""


class DamagedReport(EngineError):
    """A report's file that is not what reports are made of."""


@dataclass
class Records:
    """The reports below a folder; every file is read once."""

    root: Path
    tables: dict[Path, list[dict[str, str]]] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)

    def lines(self, study: str, file: str, where: Mapping[str, str]) -> list[Line]:
        """Return the lines of a study's table that have some values.

        Raises:
            NotMeasured: there is no such table, or no such line in it.
            DamagedReport: it is no table.
        """
        path = self.root / study / file
        if path not in self.tables:
            self.tables[path] = _read(path, study)
        table = self.tables[path]
        found = [line for line in table if all(self.text(study, file, line, key) == where[key] for key in where)]
        if not found:
            raise NotMeasured(f"{path} has no line of {', '.join(where.values())}; {_advice(study)}")
        return list(found)

    def dataset(self, study: str) -> str:
        """Return the data set that a study's learners were trained on.

        Raises:
            NotMeasured: the study has no report.
            DamagedReport: the report does not say.
        """
        if study not in self.datasets:
            path = self.root / study / STUDY
            if not path.is_file():
                raise NotMeasured(f"{path} does not exist; {_advice(study)}")
            described = read_json(path).get("study")
            if not isinstance(described, dict) or not isinstance(described.get("dataset"), str):
                raise DamagedReport(f"{path} does not say study.dataset; {RESTORE}")
            self.datasets[study] = described["dataset"]
        return self.datasets[study]

    def text(self, study: str, file: str, line: Line, column: str) -> str:
        """Return what a line of a study's table says in a column.

        Raises:
            NotMeasured: the table has no such column.
        """
        if column not in line:
            raise NotMeasured(f"{self.root / study / file} has no column {column}; {_advice(study)}")
        return line[column]

    def number(self, study: str, file: str, line: Line, column: str) -> float:
        """Return what a line of a study's table says in a column, as a number.

        Raises:
            NotMeasured: nothing stands there.
            DamagedReport: something else does.
        """
        path, written = self.root / study / file, self.text(study, file, line, column)
        if not written:
            place = ", ".join(line[name] for name in COORDINATES if line.get(name))
            raise NotMeasured(f"{path} has no {column} of {place}; {_advice(study)}")
        try:
            value = float(written)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DamagedReport(f"{path}: {column} is {written!r}, which is no number; {RESTORE}")
        return value


def _read(path: Path, study: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream, strict=True)
            return [dict(zip(header, row, strict=True)) for row in rows]
    except FileNotFoundError:
        raise NotMeasured(f"{path} does not exist; {_advice(study)}") from None
    except (csv.Error, ValueError) as error:  # of text that is no UTF-8 too, and of lines that are too short
        raise DamagedReport(f"{path} is no table ({error}); {RESTORE}") from error


def _advice(study: str) -> str:
    return f"run `python -m engine study {study}` and `dvc repro`"
