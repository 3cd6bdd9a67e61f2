"""Protect: take a folder in, make the noise, write the protected folder, and judge it."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.artifacts.files import alone, read_json, write_json
from engine.params import Params, load_params
from engine.protecting.clusters import cluster
from engine.protecting.intake import Intake, IntakeFault, take_in
from engine.protecting.judging import CLEAN, UNDEFENDED, judge, learners_of
from engine.protecting.ledger import once, run_once
from engine.protecting.recipes import Changes, Recipe, check_counts, load_recipe
from engine.protecting.releases import CRAFTED, release
from engine.protecting.scratch import UNLABELLED, Layout, copy_specs, lay_out, lay_out_unlabelled, write_recipe
from engine.protecting.verdict import Facts, write_verdict
from engine.protecting.writing import IMAGES, RECORD
from engine.stages.generate import generate_job
from engine.stages.pretrain import pretrain_job
from engine.study import Cell

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = Path(".work/protect")
CLUSTERED = (
    "The folder names no classes: clusters of features that {} learnt from the originals, starting from random "
    "weights, stand for them. Accuracies say how well these clusters are found again; learners of classes are left out."
)


@dataclass(frozen=True)
class Request:
    """What an owner asks for.

    ``judges`` is a folder of images with the same classes that are not released, to judge on; None holds some out.
    """

    folder: Path
    output: Path
    recipe: str
    changes: Changes
    judges: Path | None = None
    with_verdict: bool = True


def protect(request: Request) -> str:
    """Protect a folder, and return the page of the verdict, or a line where none was asked for.

    Steps that an earlier run finished, on the same images and settings, are not done again.

    Raises:
        EngineError: the folder, the recipe or the output cannot be used; another process protects the folder; or see
            the stages.
    """
    recipe, params = load_recipe(request.recipe, request.changes), load_params()
    folder, output = request.folder.resolve(), request.output.resolve()
    _check_output(folder, output)
    intake = take_in(folder, recipe.working_size)
    judges = take_in(request.judges.resolve(), recipe.working_size) if request.judges else None
    _check_classes(intake, judges)
    root = scratch_of(folder)
    with alone(root / "lock", f"another `engine protect` works on {folder}"):
        copy_specs(root)
        write_recipe(root, recipe, images=len(intake.originals))
        with contextlib.chdir(root):
            return _Protection(request, recipe, params, intake, judges, output).made()


def scratch_of(folder: Path) -> Path:
    """Return the scratch project of a folder: folders of one name have one each."""
    return SCRATCH.absolute() / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class _Protection:
    """One run in its scratch project, which is the working folder."""

    request: Request
    recipe: Recipe
    params: Params
    intake: Intake
    judges: Intake | None
    output: Path

    def made(self) -> str:
        """Do all of it."""
        seed, verdict = self.request.changes.seed, self.request.with_verdict
        check_counts(self.recipe, crafted=len(self.intake.originals), trained=None)
        labels, class_names = self._classes()
        # Where nothing is judged, no image needs to be held out: every one stands in both halves.
        judges = self.judges if verdict else replace(self.intake, labels=labels, class_names=class_names)
        layout = lay_out(Path(), self.intake, labels, class_names, judges, seed)
        check_counts(
            self.recipe, crafted=len(layout.crafted_rows), trained=len(layout.judged_rows) if verdict else None
        )
        crafting = (layout.crafted, CRAFTED, self.recipe.attack, self.recipe.init, self.params.precision)
        run_once(generate_job(*crafting), self.params.layout)
        release(self.intake, layout, self.output, seed=seed, judged=verdict)
        if not verdict:
            return self._summary()
        return self._judged(layout)

    def _classes(self) -> tuple[Tensor, tuple[str, ...]]:
        """Return the folder's own classes, or clusters; or one class, where nothing asks for several."""
        import torch

        if self.intake.labels is not None:
            return self.intake.labels, self.intake.class_names
        if not self.request.with_verdict and self.recipe.attack_content["granularity"] == "sample":
            return torch.zeros(len(self.intake.originals), dtype=torch.int64), ("image",)
        labels = self._clusters()
        return labels, tuple(f"cluster_{number}" for number in range(int(labels.max()) + 1))

    def _clusters(self) -> Tensor:
        import torch

        seed, layout = self.request.changes.seed, self.params.layout
        cell = Cell(UNLABELLED, CLEAN, self.recipe.study.victims[0], UNDEFENDED, seed)
        lay_out_unlabelled(Path(), self.intake, seed)
        run_once(generate_job(UNLABELLED, CLEAN, "clean", "zero", self.params.precision), layout)
        job = pretrain_job(cell, self.params.precision)
        run_once(job, layout)
        file = Path("clusters.json")

        def find() -> None:
            write_json(file, {"labels": cluster(features_of(cell, self.intake.working_u8), seed=seed).tolist()})

        once("clusters", {**job.about, "images": self.intake.digest}, [file], find)
        return torch.tensor(read_json(file)["labels"])

    def _judged(self, layout: Layout) -> str:
        has_labels, seed = self.intake.labels is not None, self.request.changes.seed
        learners = learners_of(self.recipe, has_labels=has_labels)
        judged = judge(self.recipe, layout, self.params, seed, learners)
        test = judged[0].clean.accuracy.test_images
        facts = Facts(
            self.recipe.study.name,
            "Classes are the first folders." if has_labels else CLUSTERED.format(self.recipe.study.victims[0]),
            f"Judged on {test:,} images that are not released."
            if self.judges
            else f"Judged on the originals of {test:,} images that the thief does not train on.",
            self.recipe.working_size,
            seed,
        )
        return write_verdict(self.output, facts, judged)

    def _summary(self) -> str:
        record = read_json(self.output / RECORD)
        lines = [f"{len(record['images']):,} images protected in {self.output / IMAGES}; no verdict was asked for."]
        lines += [f"broken, not protected: {each['name']}: {each['reason']}" for each in record["broken"]]
        return "\n".join(lines) + "\n"


def features_of(cell: Cell, images_u8: Tensor) -> Tensor:
    """Return what a cell's encoder makes of images: [N, F]."""
    from engine.stages.probe import stored
    from engine.training.probe import encode

    return encode(stored(cell, with_classifier=False).encoder, images_u8, None, None)


def _check_output(folder: Path, output: Path) -> None:
    if output == folder or folder in output.parents or output in folder.parents:
        raise IntakeFault(f"output {output} and the folder of images {folder} lie in each other; name another --output")
    record = output / RECORD
    if output.is_dir() and any(output.iterdir()) and not record.is_file():
        raise IntakeFault(f"output {output} holds other files; name a new or empty folder with --output")
    if record.is_file() and (other := read_json(record).get("folder")) != str(folder):
        raise IntakeFault(f"output {output} holds the protected images of {other}; name another --output")
    if output.is_file():
        raise IntakeFault(f"output {output} is a file; name a folder with --output")


def _check_classes(intake: Intake, judges: Intake | None) -> None:
    if set(intake.class_names) == {"train", "test"}:
        raise IntakeFault(
            f"{intake.folder} holds train/ and test/, which are halves and not classes; protect {intake.folder}/train "
            f"with --judge-on {intake.folder}/test"
        )
    if judges is not None and (not intake.class_names or judges.class_names != intake.class_names):
        raise IntakeFault(
            f"--judge-on needs one folder per class, the same ones in both: {intake.folder} has "
            f"{', '.join(intake.class_names) or 'none'}, {judges.folder} has {', '.join(judges.class_names) or 'none'}"
        )
