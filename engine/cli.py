"""The command line: one command a stage, and the few that a person types."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.protocols import Job

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Study availability poisoning of contrastive learning. `dvc repro` runs the study that dvc.yaml names.",
)

Layout = Annotated[str, typer.Option(help="A name under specs/layouts; by default the one in params.yaml.")]
Dataset = Annotated[str, typer.Option(help="A name under specs/datasets.")]
Downstream = Annotated[str, typer.Option(help="The data set to probe on, a name under specs/datasets.")]
Poison = Annotated[str, typer.Option(help="The name of a generated poison.")]
Victim = Annotated[str, typer.Option(help="A name under specs/victims.")]
Defense = Annotated[str, typer.Option(help="A name under specs/defenses.")]
Seed = Annotated[int, typer.Option(min=0, help="The victim's seed.")]
Precision = Annotated[
    str, typer.Option(help="What networks compute in: fp32, bf16 or fp16; by default what params.yaml says.")
]
Protocol = Annotated[str, typer.Option(help="A name under specs/probes; by default the one in params.yaml.")]

STUDY_LINE = re.compile(r"^(\s*- specs/studies/)([a-z0-9_]+)(\.yaml\b)", re.MULTILINE)


@app.command()
def validate(
    study: Annotated[str, typer.Option(help="A name under specs/studies; by default dvc.yaml's.")] = "",
) -> None:
    """Check every spec and every cell; list every fault with its file, line and column."""
    from engine.stages.validate import validate

    checked = validate(study or _active_study())
    typer.echo(f"{checked.files} spec files and {checked.cells} cells are valid.")


@app.command()
def generate(
    dataset: Dataset,
    name: Annotated[str, typer.Option(help="What to call the poison.")],
    attack: Annotated[str, typer.Option(help="A name under specs/attacks.")],
    init: Annotated[str, typer.Option(help="Where the noise starts: zero, uniform, or another poison's name.")],
    precision: Precision = "",
    layout: Layout = "",
) -> None:
    """Craft one poisoned copy of a data set."""
    from engine.stages.generate import generate_job

    _run(generate_job(dataset, name, attack, init, precision or _params().precision), layout)


@app.command()
def pretrain(
    dataset: Dataset,
    poison: Poison,
    victim: Victim,
    defense: Defense,
    seed: Seed,
    precision: Precision = "",
    layout: Layout = "",
) -> None:
    """Train one victim on one poisoned data set, under one defense."""
    from engine.stages.pretrain import pretrain_job
    from engine.study import Cell

    _run(pretrain_job(Cell(dataset, poison, victim, defense, seed), precision or _params().precision), layout)


@app.command()
def probe(
    dataset: Dataset,
    poison: Poison,
    victim: Victim,
    defense: Defense,
    seed: Seed,
    downstream: Downstream,
    protocol: Protocol = "",
    layout: Layout = "",
) -> None:
    """Judge one encoder on one downstream data set."""
    from engine.stages.probe import probe_job
    from engine.study import Cell

    cell = Cell(dataset, poison, victim, defense, seed)
    _run(probe_job(cell, downstream, protocol or _params().probe), layout)


@app.command()
def floor(
    dataset: Dataset, victim: Victim, seed: Seed, downstream: Downstream, protocol: Protocol = "", layout: Layout = ""
) -> None:
    """Judge the encoder that a seed starts from, before any training."""
    from engine.stages.probe import floor_job

    _run(floor_job(dataset, victim, seed, downstream, protocol or _params().probe), layout)


@app.command()
def report(
    study: Annotated[str, typer.Option(help="A name under specs/studies; by default dvc.yaml's.")] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail, once all is written, where a result is missing.")
    ] = False,
) -> None:
    """Tabulate and draw a study."""
    from engine.stages.report import report

    report(study or _active_study(), strict=strict)


@app.command()
def show(study: Annotated[str, typer.Option(help="A name under specs/studies; by default dvc.yaml's.")] = "") -> None:
    """Print a study's accuracy table and where its page lies."""
    from engine.stages.report import show

    show(study or _active_study())


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A name under specs/studies; without it, print the one in use.")] = "",
) -> None:
    """Choose the study that `dvc repro` runs: rewrite the one line of dvc.yaml that names it."""
    from engine.study import load_study

    if not name:
        typer.echo(_active_study())
        return
    load_study(name)
    file = Path("dvc.yaml")
    file.write_text(STUDY_LINE.sub(rf"\g<1>{name}\g<3>", file.read_text(), count=1))
    typer.echo(f"dvc.yaml runs {name}; start it with `dvc repro`.")


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print {group: {kind: {...}}} as JSON.")] = False,
) -> None:
    """List every group's kinds and the names declared for them."""
    from engine.catalog import as_text, catalog

    found = catalog()
    typer.echo(json.dumps(found, indent=2) if as_json else as_text(found))


@app.command()
def schema() -> None:
    """Write a JSON Schema per group of specs under schemas/, for editors, and the plugins' cards as docs/catalog.md."""
    from engine.catalog import write_page, write_schemas

    for file in [*write_schemas(), write_page()]:
        typer.echo(file)


@app.command()
def download(name: Annotated[str, typer.Argument(help="A name under specs/datasets.")]) -> None:
    """Download a public data set into the data root."""
    from engine import plugins
    from engine.specfiles import load
    from engine.stages.inputs import data_root

    split = plugins.build("datasets", load("datasets", name), root=data_root(), download=True)
    typer.echo(f"{name}: {len(split.train)} training and {len(split.test)} test images")


@app.command()
def repro(
    stages: Annotated[
        list[str] | None, typer.Argument(help="Stages, as `dvc repro` takes them; by default all.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Cells at once; by default one a GPU, or one on a CPU.")
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Only say what would run, and why.")] = False,
) -> None:
    """Do what `dvc repro` does, several cells at once, each on a GPU or some cores; go on where one fails."""
    from engine.parallel.run import foresee, repro
    from engine.parallel.slots import share
    from engine.specfiles import load

    slots = share(jobs, load("layouts", _params().layout).device)
    if dry:
        typer.echo(foresee(tuple(stages or ())))
        return
    raise typer.Exit(repro(tuple(stages or ()), slots))


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="A name under specs/studies; by default dvc.yaml's.")] = "",
    calibrate: Annotated[bool, typer.Option(help="Time a few steps here, to predict hours and memory.")] = True,
) -> None:
    """Say what a study would run, and what that would take; run nothing of it."""
    from engine.stages.planning import show_plan

    show_plan(study or _active_study(), calibrate=calibrate)


def _run(job: Job, layout: str) -> None:
    """Run a stage's job where the layout says, and print what it made."""
    from engine.processes import is_first
    from engine.stages.dispatch import dispatch

    made = dispatch(job, layout or _params().layout)
    if is_first():
        typer.echo(made)


def _params():  # type: ignore[no-untyped-def]
    from engine.params import load_params

    return load_params()


def _active_study() -> str:
    file = Path("dvc.yaml")
    match = STUDY_LINE.search(file.read_text()) if file.is_file() else None
    if match is None:
        raise typer.BadParameter(
            "no study was named, and dvc.yaml of this folder has no line `- specs/studies/NAME.yaml`; "
            "run in the project's root, or give --study"
        )
    return match[2]


def main() -> None:
    """Run a command; a fault that the user can mend is a message, not a traceback."""
    from engine.errors import EngineError

    # Read when torch loads. Waiting threads that spin make a training step ten times slower as soon as
    # anything else runs on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except EngineError as error:
        sys.exit(f"error: {error}")
