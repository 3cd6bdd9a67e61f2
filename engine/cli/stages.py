"""The commands that DVC runs: one a stage."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.options import (
    Dataset,
    Defense,
    Downstream,
    Layout,
    Poison,
    Precision,
    Protocol,
    Seed,
    Victim,
    app,
    run,
)
from engine.params import load_params
from engine.study import active_study


@app.command()
def validate(
    study: Annotated[str, typer.Option(help="A name under specs/studies; by default dvc.yaml's.")] = "",
) -> None:
    """Check every spec and every cell; list every fault with its file, line and column."""
    from engine.stages.validate import validate

    checked = validate(study or active_study())
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

    run(generate_job(dataset, name, attack, init, precision or load_params().precision), layout)


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

    run(pretrain_job(Cell(dataset, poison, victim, defense, seed), precision or load_params().precision), layout)


@app.command()
def probe(
    dataset: Dataset,
    poison: Poison,
    victim: Victim,
    defense: Defense,
    seed: Seed,
    downstream: Downstream,
    protocol: Protocol,
    layout: Layout = "",
) -> None:
    """Judge one encoder on one downstream data set."""
    from engine.stages.probe import probe_job
    from engine.study import Cell

    cell = Cell(dataset, poison, victim, defense, seed)
    run(probe_job(cell, downstream, protocol), layout)


@app.command()
def floor(
    dataset: Dataset, victim: Victim, seed: Seed, downstream: Downstream, protocol: Protocol, layout: Layout = ""
) -> None:
    """Judge the encoder that a seed starts from, before any training."""
    from engine.stages.probe import floor_job

    run(floor_job(dataset, victim, seed, downstream, protocol), layout)


@app.command()
def report(
    study: Annotated[str, typer.Option(help="A name under specs/studies; by default dvc.yaml's.")] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail, once all is written, where a result is missing.")
    ] = False,
) -> None:
    """Tabulate and draw a study."""
    from engine.stages.report import report

    report(study or active_study(), strict=strict)
