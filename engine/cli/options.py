"""What commands share: the program, its options, and how it finds the study in use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.params import load_params

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
"""The line of dvc.yaml that names the study which `dvc repro` runs."""


def run(job: Job, layout: str) -> None:
    """Run a stage's job where the layout says, and print what it made."""
    from engine.launching import is_inside
    from engine.stages.dispatch import dispatch

    made = dispatch(job, layout or load_params().layout)
    if not is_inside():
        typer.echo(made)


def active_study() -> str:
    """Return the study that dvc.yaml names."""
    file = Path("dvc.yaml")
    match = STUDY_LINE.search(file.read_text()) if file.is_file() else None
    if match is None:
        raise typer.BadParameter(
            "no study was named, and dvc.yaml of this folder has no line `- specs/studies/NAME.yaml`; "
            "run in the project's root, or give --study"
        )
    return match[2]
