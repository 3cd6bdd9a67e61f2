"""Commands about a poisoned data set: a folder under artifacts, or one that came from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import app

if TYPE_CHECKING:
    from engine.protocols import Split

Artifact = Annotated[Path, typer.Argument(help="A poisoned data set: a folder with a manifest.json.")]


@app.command()
def verify(
    artifact: Artifact,
    dataset: Annotated[
        str, typer.Option(help="The clean source, a name under specs/datasets; by default the one in the manifest.")
    ] = "",
    survive: Annotated[
        bool, typer.Option("--survive", help="Also save, resize and crop images, and measure what is left.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a poisoned data set against its manifest and its clean source; status 1 unless everything is right."""
    from engine.artifacts.files import read_json
    from engine.verifying import survive as survival_of
    from engine.verifying import verify
    from engine.verifying.wording import as_text, survival_text

    split, trouble = _clean(artifact, dataset)
    found = verify(artifact, split)
    rows = []
    if survive and found.is_good and split:
        rows = survival_of(artifact, read_json(artifact / "manifest.json"), split)
    if as_json:
        typer.echo(json.dumps(found.record() | {"survival": [row.record() for row in rows]}, indent=2))
    else:
        typer.echo("\n".join(filter(None, [as_text(found), trouble])))
        if survive:
            typer.echo("\n" + (survival_text(rows) if rows else "What survives is measured once everything is right."))
    raise typer.Exit(0 if found.is_good else 1)


def _clean(artifact: Path, dataset: str) -> tuple[Split | None, str]:
    """Return the clean images that a poison was made of, or why they are not here."""
    from engine.artifacts.files import read_json
    from engine.errors import EngineError
    from engine.stages.inputs import load_dataset

    if not dataset and not (artifact / "manifest.json").is_file():
        return None, ""  # what is wrong is said by the check
    try:
        name = dataset or str(read_json(artifact / "manifest.json").get("dataset", {}).get("name"))
        return load_dataset(name)[1], ""
    except EngineError as error:
        if dataset:
            raise
        return None, f"The clean images are not here ({error}); give their data set with --dataset."


@app.command()
def export(
    artifact: Artifact,
    form: Annotated[str, typer.Argument(help="imagefolder, webdataset, npz, or official.")],
    target: Annotated[Path, typer.Argument(help="The folder, or for npz and official the file, to write.")],
) -> None:
    """Write a poisoned data set in another form."""
    from engine.exporting import export

    typer.echo(export(artifact, form, target))


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A poisoned data set: a folder with a manifest.json.")],
    second: Annotated[Path, typer.Argument(help="Another, for example an old one that `dvc get --rev` fetched.")],
) -> None:
    """Say how two poisoned data sets differ, in their making and image by image; status 1 where they do."""
    from engine.artifacts.comparing import compare
    from engine.errors import EngineError

    try:
        found = compare(first, second)
    except EngineError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(found.text())
    raise typer.Exit(0 if found.is_same else 1)
