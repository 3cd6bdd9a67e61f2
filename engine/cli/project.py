"""The commands that a person types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Layout, app
from engine.params import load_params
from engine.study import activate_study, active_study


@app.command()
def show(study: Annotated[str, typer.Option(help="A name under specs/studies; by default dvc.yaml's.")] = "") -> None:
    """Print a study's accuracy table and where its page lies."""
    from engine.stages.report import show

    show(study or active_study())


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A name under specs/studies; without it, print the one in use.")] = "",
) -> None:
    """Choose the study that `dvc repro` runs: rewrite the one line of dvc.yaml that names it."""
    if not name:
        typer.echo(active_study())
        return
    activate_study(name)
    typer.echo(f"dvc.yaml runs {name}; start it with `dvc repro`.")


@app.command()
def claims(
    check: Annotated[
        Path | None, typer.Option(help="A committed docs/claims.md: fail where what it calls reproduced is not now.")
    ] = None,
) -> None:
    """Judge the declared claims by the reports that are here, print the verdicts, and write docs/claims.md.

    With --check nothing is written.
    """
    from engine.stages.claims import check_verdicts, write_verdicts

    typer.echo(check_verdicts(check) if check else write_verdicts())


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="A name under specs/studies; by default dvc.yaml's.")] = "",
    calibrate: Annotated[bool, typer.Option(help="Time a few steps here, to predict hours and memory.")] = True,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="Time none; predict for GPUs that sustain so many TFLOP/s each.")
    ] = None,
    layout: Layout = "",
    header: Annotated[
        bool, typer.Option("--header", help="Write it into the study's file instead; by default every paper study's.")
    ] = False,
) -> None:
    """Say what a study would run, and what that would take; run nothing of it."""
    from engine.stages.headers import LAYOUT, TFLOPS, write_headers
    from engine.stages.planning import show_plan

    if header:
        for file in write_headers(study, tflops=tflops or TFLOPS, layout_name=layout or LAYOUT):
            typer.echo(file)
        return
    show_plan(study or active_study(), calibrate=calibrate, tflops=tflops, layout_name=layout)


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

    slots = share(jobs, load("layouts", load_params().layout))
    if dry:
        typer.echo(foresee(tuple(stages or ())))
        return
    raise typer.Exit(repro(tuple(stages or ()), slots))


@app.command()
def cancel(key: Annotated[str, typer.Argument(help="STAGE@KEY or KEY of a cell; by default all.")] = "") -> None:
    """Cancel this project's Slurm jobs, or one cell's."""
    from engine.slurm import cancel

    typer.echo(cancel(key or None))


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
    from engine.images.presence import data_root
    from engine.specfiles import load

    split = plugins.build("datasets", load("datasets", name), root=data_root(), download=True)
    typer.echo(f"{name}: {len(split.train)} training and {len(split.test)} test images")
