"""Planning: the table of what a study would run, with what it would take on the layout's machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.machine import Machine
from engine.progress import progress_of
from engine.reporting.costs import duration, memory
from engine.spec import ExecutorSpec
from engine.specfiles import load
from engine.stages.calibration import FILE, STEPS, Calibration, Learning, Pace
from engine.stages.plan import Forecast, Plan, Step, forecast, plan_of

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_OF_LOGS = 220
UNKNOWN, NOT_TIMED = "unknown", "\N{EN DASH}"
NOTE_ON_VIEWS = (
    "Image-views are augmented images sent forwards and backwards; a probe's are encodings, forwards alone. "
    "`python -m engine repro --dry` says which of these runs are up to date."
)


def show_plan(study_name: str, *, calibrate: bool) -> None:
    """Print every run of a study: its command, image-views, time and memory, and what all of them would take.

    Raises:
        SpecFault: a spec or a cell is wrong.
        EngineError: the layout's device is not here, and its steps are to be timed.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_OF_LOGS)
    plan = plan_of(study_name)
    layout: ExecutorSpec = load("layouts", plan.params.layout)
    steps, calibration = [*plan.steps()], None
    paces: dict[int, Pace] = {}
    if calibrate:
        machine = Machine.of(precision=plan.params.precision, **layout.machine_fields())
        calibration = Calibration(machine)
        paces = _paces(steps, calibration)
    forecasts = [forecast(step, paces.get(number), layout.processes) for number, step in enumerate(steps)]
    console.print(table_of(plan, forecasts))
    for line in notes(plan, forecasts, calibration, layout.processes):
        console.print(line, markup=False, soft_wrap=True)


def _paces(steps: Sequence[Step], calibration: Calibration) -> dict[int, Pace]:
    """Return the pace of every step that learns or encodes, under its number; each is measured once."""
    found: dict[int, Pace] = {}
    todo = [(number, step.learning) for number, step in enumerate(steps) if step.learning is not None]
    with progress_of("calibrate") as progress:
        for done, (number, learning) in enumerate(todo, start=1):
            found[number] = calibration.pace(learning)
            progress(done, len(todo), _name(learning))
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


def notes(plan: Plan, forecasts: Sequence[Forecast], calibration: Calibration | None, processes: int) -> Iterator[str]:
    """Yield what the table does not say: the sum in hours of a device, how times were measured, what is unknown."""
    if calibration is not None:
        unit = "GPU" if calibration.machine.device.type == "cuda" else "CPU"
        total = sum(each.device_seconds or 0.0 for each in forecasts)
        yield f"In all {total / 3600:,.3g} {unit}-hours, one run after another, on {calibration.device}."
        yield from _measured(calibration, unit)
        if processes > 1:
            yield (
                f"Layout {plan.params.layout} has {processes} processes: the times of generate and pretrain are "
                "divided by as many, an upper bound of the speed-up; hours are not divided."
            )
    missing = sorted({name for name, size in plan.sizes.items() if size.train is None})
    if missing:
        yield f"Unknown, and in no sum: what needs {', '.join(missing)}, whose images are not here."
    if any(each.step.bound for each in forecasts):
        yield (
            "At most: the attack ends when it has done enough. At least: the defense works on the whole data set "
            "before training, or adds to the objective what it made there, and neither is counted."
        )
    yield NOTE_ON_VIEWS


def _measured(calibration: Calibration, unit: str) -> Iterator[str]:
    held = "of the GPU" if unit == "GPU" else "of this process, so that what was measured before counts too"
    yield (
        f"Times: the median of {STEPS} or more training steps on random images, {calibration.machine.precision.name}, "
        "per image-view; noise steps are taken to last as long. Not counted: reading and writing, measures, a probe's "
        f"own head. Memory: the peak {held}, without the images that stay on the device. Kept in {FILE}."
    )
