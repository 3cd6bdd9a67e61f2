"""Take in a poison that others released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import app, run
from engine.params import load_params


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A .pth, .pt or .npz file, tar files, or a folder of images.")],
    dataset: Annotated[str, typer.Option(help="The clean data set it was made of, a name under specs/datasets.")],
    name: Annotated[str, typer.Option(help="What to call it: of the poison, and of its spec under specs/attacks.")],
    epsilon: Annotated[str, typer.Option(help="The budget that it keeps, as 8/255.")] = "8/255",
    match: Annotated[
        str, typer.Option(help="Which clean image each was made of: that at its place (index), or the nearest one.")
    ] = "index",
    partial: Annotated[bool, typer.Option("--partial", help="Images may be missing: they are not released.")] = False,
    layout: Annotated[
        str, typer.Option(help="official, tensor, npz, imagefolder or webdataset; by default what the name says.")
    ] = "",
) -> None:
    """Take in a poison that others released: check it against the clean images, and make it one of this project's."""
    from engine.stages.generate import generate_job
    from engine.stages.importing import declare_import

    with declare_import(source, name, layout, epsilon=epsilon, match=match, partial=partial) as spec:
        run(generate_job(dataset, name, name, "zero", load_params().precision), "")
    typer.echo(f"{spec} declares it; in a study's poisons: `{name}: {{attack: {name}, init: zero}}`")
