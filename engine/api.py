"""For notebooks and scripts: read poisons, declare studies, run them, and look at what came out.

``from engine import Study, load_poison, run``
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from engine.artifacts import ReleasedPoison, read_poison
from engine.errors import EngineError
from engine.reporting.results import read_results
from engine.reporting.tables import Row, accuracy_rows
from engine.specfiles import write_spec
from engine.study import StudySpec, activate_study, load_study, poison_path, study_file


def load_poison(folder: str | Path, *, repo: str | None = None, rev: str | None = None) -> ReleasedPoison:
    """Read a poisoned data set: released images, labels, noise, and everything that is known of it.

    ``repo`` and ``rev`` read it out of another repository, or as it was at a tag or commit of this one; DVC fetches it.

    Raises:
        ArtifactError: there is none, or it is damaged.
        EngineError: DVC cannot get it.
    """
    if repo is None and rev is None:
        return read_poison(Path(folder))
    from dvc.api import DVCFileSystem

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "poison"
        try:
            DVCFileSystem(repo, rev=rev).get(str(folder), str(target), recursive=True)
        except Exception as error:  # DVC, git and the remote's client each raise their own
            raise EngineError(f"{folder} of {repo or 'this repository'} at {rev or 'HEAD'}: {error}") from error
        return read_poison(target)


class Others(TypedDict, total=False):
    """What a study may say beside its data set, poisons and victims."""

    description: str
    protocol: str
    defenses: Sequence[str]
    downstream: Sequence[str]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Study:
    """A declared study.

    ``Study.load("quickstart")`` takes one that has a spec file, ``Study.declare("mine", ...)`` writes one.
    """

    spec: StudySpec

    @classmethod
    def load(cls, name: str) -> Study:
        """Return a study that ``specs/studies`` declares.

        Raises:
            SpecFault: it does not, or has a fault; every fault is named with its line.
        """
        return cls(load_study(name))

    @classmethod
    def declare(
        cls,
        name: str,
        *,
        dataset: str,
        poisons: Mapping[str, Mapping[str, str]],
        victims: Sequence[str],
        **others: Unpack[Others],
    ) -> Study:
        """Write ``specs/studies/NAME.yaml`` and return the study.

        By default there is no defense and one seed, and encoders are probed on the data set itself, by the protocol
        ``banked``. A file that says the same may be there already.

        Raises:
            EngineError: there is another study of this name.
            SpecFault: it names something that is not declared, or has another fault; nothing is written then.
        """
        study = {
            "name": name,
            "description": others.get("description", ""),
            "protocol": others.get("protocol", "banked"),
            "dataset": dataset,
            "poisons": {key: dict(entry) for key, entry in poisons.items()},
            "victims": list(victims),
            "defenses": list(others.get("defenses", ["none"])),
            "downstream": list(others.get("downstream", [dataset])),
            "seeds": list(others.get("seeds", [0])),
        }
        file = study_file(name)
        if file.exists():
            found = cls.load(name)
            if found.spec.model_dump(mode="json") != study:
                raise EngineError(f"{file} declares another study; take another name, or edit that file")
            return found
        write_spec(file, "studies", {"study": study})
        try:
            return cls.load(name)
        except EngineError:
            file.unlink()
            raise

    @property
    def name(self) -> str:
        """Return its name."""
        return self.spec.name

    @property
    def report(self) -> Path:
        """Return where its page lies, once it ran."""
        return Path("reports") / self.name / "index.html"

    def poison(self, name: str) -> ReleasedPoison:
        """Read one of its poisons.

        Raises:
            ArtifactError: it was not made yet, or is damaged.
        """
        return read_poison(poison_path(self.spec.dataset, name))

    def accuracies(self) -> list[Row]:
        """Return the accuracies that are there, one row a cell and downstream set; what is missing is None."""
        return accuracy_rows(read_results(self.spec))


def run(study: Study, *, jobs: int | None = None) -> list[Row]:
    """Run what is missing of a study, through DVC, and return its accuracies.

    It becomes the study that ``dvc repro`` runs. What ran before and has not changed does not run again. ``jobs`` cells
    run at a time; by default one a GPU, or one on a CPU.

    Raises:
        EngineError: a stage failed; the others ran.
    """
    activate_study(study.name)
    at_once = () if jobs is None else ("--jobs", str(jobs))
    done = subprocess.run(
        [sys.executable, "-m", "engine", "repro", *at_once], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EngineError(f"not every stage of {study.name} ran:\n{done.stdout}{done.stderr}")
    return study.accuracies()
