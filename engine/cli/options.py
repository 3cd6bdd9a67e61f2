"""What commands share: the program, its options, and how a job runs."""

from __future__ import annotations

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
Protocol = Annotated[str, typer.Option(help="A name under specs/protocols.")]


def run(job: Job, layout: str) -> None:
    """Run a stage's job where the layout says, and print what it made."""
    from engine.launching import is_inside
    from engine.stages.dispatch import dispatch

    made = dispatch(job, layout or load_params().layout)
    if not is_inside():
        typer.echo(made)
