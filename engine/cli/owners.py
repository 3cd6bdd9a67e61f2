"""The command of those who own images and publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import app


@app.command()
def protect(
    folder: Annotated[Path, typer.Argument(help="The images; folders in it are classes where all images lie in one.")],
    output: Annotated[
        Path | None, typer.Option(help="Where images/ and the verdict go; by default FOLDER-protected.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A study of one poison under specs/studies.")] = "protect",
    judge_on: Annotated[
        Path | None, typer.Option(help="Images of the same classes that you keep; by default a fifth of FOLDER.")
    ] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="The largest change of a pixel, as 8/255; by default the recipe's.")
    ] = None,
    working_size: Annotated[
        int | None, typer.Option(min=8, help="Pixels a side at which noise is made; by default the recipe's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise, the learners and the halves.")] = 0,
    verdict: Annotated[bool, typer.Option(help="Train learners on the result and say what they reach.")] = True,
) -> None:
    """Protect your own images against learners, and say what a thief still learns from them."""
    from engine.protecting.protect import Request, protect
    from engine.protecting.recipes import Changes

    folder = folder.resolve()
    target = output or folder.with_name(f"{folder.name}-protected")
    changes = Changes(epsilon, working_size, seed)
    typer.echo(protect(Request(folder, target, recipe, changes, judge_on, verdict)), nl=False)
