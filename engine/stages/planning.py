"""Planning: the table of what a study would run, with what it would take on the layout's machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from engine.machine import Machine
from engine.progress import progress_of
from engine.reporting.costs import duration, memory
from engine.spec import ExecutorSpec
from engine.specfiles import load
from engine.stages.calibration import Calibration
from engine.stages.plan import Forecast, Plan, forecast, plan_of
from engine.stages.pricing import Pricing
from engine.stages.rehearsal import Learning, Pace

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_OF_LOGS = 220
UNKNOWN, NOT_TIMED = "unknown", "\N{EN DASH}"
NOTE_ON_VIEWS = (
    "Image-views are augmented images sent forwards and backwards; a probe's are encodings, forwards alone. "
    "`python -m engine repro --dry` says which of these runs are up to date."
)


class Paces(Protocol):
    """How long steps take on a device, which is here or is not."""

    unit: str

    @property
    def device(self) -> str:
        """Name the device."""

    def pace(self, learning: Learning) -> Pace:
        """Return the pace of a learner's steps."""

    def explain(self) -> str:
        """Say how paces were found, and what they leave out."""


def show_plan(study_name: str, *, calibrate: bool, tflops: float | None = None, layout_name: str = "") -> None:
    """Print every run of a study: its command, image-views, time and memory, and what all of them would take.

    Times are measured here, or with ``tflops`` predicted for GPUs of that speed.

    Raises:
        SpecFault: a spec or a cell is wrong.
        EngineError: the layout's device is not here, and its steps are to be timed.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_LOGS)
    plan = plan_of(study_name)
    layout: ExecutorSpec = load("layouts", layout_name or plan.params.layout)
    paces: Paces | None = None
    if tflops is not None:
        paces = Pricing(tflops, layout.processes, plan.params.precision)
    elif calibrate:
        paces = Calibration(Machine.of(precision=plan.params.precision, **layout.machine_fields()))
    forecasts = forecasts_of(plan, paces, layout.processes)
    console.print(table_of(plan, forecasts))
    for line in notes(plan, forecasts, paces, layout.processes):
        console.print(line, markup=False, soft_wrap=True)


def forecasts_of(plan: Plan, paces: Paces | None, processes: int) -> list[Forecast]:
    """Return what every step would take; without paces, what is known without them."""
    steps = [*plan.steps()]
    if paces is None:
        return [forecast(step, None, processes) for step in steps]
    learning = [step for step in steps if step.learning is not None]
    found, done = [], 0
    with progress_of(f"plan {plan.study.name}") as progress:
        for step in steps:
            pace = None
            if step.learning is not None:
                pace, done = paces.pace(step.learning), done + 1
                progress(done, len(learning), _name(step.learning))
            found.append(forecast(step, pace, processes))
    return found


def _name(learning: Learning) -> str:
    what = "encodings" if learning.defense is None else f"steps of {learning.victim.batch_size}"
    return f"{learning.victim.kind}, {what}"


def table_of(plan: Plan, forecasts: Sequence[Forecast]) -> Table:
    """Return a line for every run, and one for their sum."""
    from rich.table import Table
    from rich.text import Text

    headings = ("run", "command", "image-views", "time", "memory")
    table = Table(*headings, title=f"{plan.study.name}: what it would run", title_justify="left", show_footer=True)
    for each in forecasts:
        table.add_row(*map(Text, _line(each)))
    known = [each.step.image_views for each in forecasts if each.step.image_views is not None]
    seconds = [each.seconds for each in forecasts if each.seconds is not None]
    table.columns[0].footer = f"{len(forecasts):,} runs"
    table.columns[2].footer = f"{sum(known):,}"
    table.columns[3].footer = duration(sum(seconds)) if seconds else NOT_TIMED
    return table


def _line(each: Forecast) -> tuple[str, ...]:
    step, views = each.step, each.step.image_views
    return (
        step.stage,
        " ".join(("python", *step.command)),
        UNKNOWN if views is None else f"{step.bound} {views:,}".strip(),
        NOT_TIMED if each.seconds is None else f"{step.bound} {duration(each.seconds)}".strip(),
        NOT_TIMED if each.memory is None else memory(each.memory),
    )


def notes(plan: Plan, forecasts: Sequence[Forecast], paces: Paces | None, processes: int) -> Iterator[str]:
    """Yield what the table does not say: the sum in hours of a device, how times were measured, what is unknown."""
    if paces is not None:
        total = sum(each.device_seconds or 0.0 for each in forecasts)
        yield f"In all {total / 3600:,.3g} {paces.unit}-hours, one run after another, on {paces.device}."
        yield paces.explain()
        if processes > 1:
            yield (
                f"The layout has {processes} processes: the times of generate and pretrain are "
                "divided by as many, an upper bound of the speed-up; hours are not divided."
            )
    missing = sorted({name for name, size in plan.sizes.items() if size.train is None})
    if missing:
        yield f"Unknown, and in no sum: what needs {', '.join(missing)}, whose images are not here."
    if any(each.step.bound for each in forecasts):
        yield (
            "At most: the attack ends when it has done enough. At least: the defense works on the whole data set "
            "before training, which is not counted."
        )
    yield NOTE_ON_VIEWS
