"""Headers: what was published of a study and what the study would take, as comments that open its file.

What a person writes there stays; what follows from specs stands between two marks, and is written here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.artifacts.files import atomic_file
from engine.errors import EngineError
from engine.reporting.costs import memory
from engine.reporting.expected import Line, as_table, expected_lines, short
from engine.spec import ExecutorSpec
from engine.specfiles import load, names
from engine.stages.plan import Forecast, Plan, plans_of
from engine.stages.planning import forecasts_of
from engine.stages.pricing import Pricing
from engine.study import StudySpec, study_file

FOLDER, PAGE = "paper/", Path("docs/paper.md")
"""The studies that reproduce the paper, and the page that lists them."""
TFLOPS, LAYOUT = 15.0, "torchrun_4"
"""For what headers foretell: a speed that is assumed of a GPU, not measured, and four of them."""
BEGIN, END = "# Written by `python -m engine plan {name} --header`:", "# Here it ends."
PAGE_BEGIN, PAGE_END = "<!-- Written by `python -m engine plan --header`: -->", "<!-- Here it ends. -->"
STAGES = {"generate": "to make the poisons", "pretrain": "to train the victims", "probe": "encodings to judge them"}
TITLE = "# Reproduces: "
WIDTH = 118


@dataclass(frozen=True)
class Foretold:
    """A study's plan, what is known of its accuracies, and what its steps would take of the assumed GPUs."""

    plan: Plan
    expected: Sequence[Line]
    forecasts: Sequence[Forecast]
    pricing: Pricing

    @property
    def study(self) -> StudySpec:
        """Return the study."""
        return self.plan.study

    @property
    def known(self) -> str:
        """Say of how many cells something is published; averages of several cells count as one."""
        figures = [figure for line in self.expected for figure in line.figures]
        return f"{sum(figure is not None for figure in figures)} of {len(figures)}"

    def of(self, stage: str) -> list[Forecast]:
        """Return the forecasts of a stage; floors are probes of their own."""
        stages = {stage, "floor"} if stage == "probe" else {stage}
        return [each for each in self.forecasts if each.step.stage.partition("@")[0] in stages]


def write_headers(study_name: str = "", *, tflops: float = TFLOPS, layout_name: str = LAYOUT) -> list[Path]:
    """Rewrite what a study's header foretells; without a name, of every study of the paper, and their page.

    Raises:
        SpecFault: a spec or a cell of the project is wrong.
        EngineError: there is no such study, a file has no place for it, or nobody knows how many images there are.
    """
    chosen = [study_name] if study_name else [name for name in names("studies") if name.startswith(FOLDER)]
    if not chosen:
        raise EngineError(f"specs/studies/{FOLDER} has no studies whose headers could be written; name a study")
    layout: ExecutorSpec = load("layouts", layout_name)
    plans = plans_of(chosen)
    pricing = Pricing(tflops, layout.processes, plans[0].params.precision)
    foretold = [foretell(plan, pricing) for plan in plans]
    written = {study_file(each.study.name): header_text(each) for each in foretold}
    if not study_name:
        written[PAGE] = page_text(foretold)
    for file, text in written.items():
        with atomic_file(file) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(written)


def foretell(plan: Plan, pricing: Pricing) -> Foretold:
    """Return what is known of a study and what it would take.

    Raises:
        EngineError: nobody knows how many images there are.
    """
    unknown = sorted(name for name, size in plan.sizes.items() if size.train is None or size.test is None)
    if unknown:
        raise EngineError(
            f"how many images {' and '.join(unknown)} have is not known, and so not what {plan.study.name} would take; "
            "put them where ENGINE_DATA says, or declare train_per_class and test_per_class"
        )
    return Foretold(plan, expected_lines(plan.study), forecasts_of(plan, pricing, pricing.processes), pricing)


def header_text(foretold: Foretold) -> str:
    """Return a study's file with its header as it should be; one without marks gets them before its first key.

    Raises:
        EngineError: it has no place for it.
    """
    file, begin = study_file(foretold.study.name), BEGIN.format(name=foretold.study.name)
    lines = [f"# {line}" for line in (*_expectations(foretold), *_predictions(foretold))]
    text = file.read_text(encoding="utf-8")
    if f"{begin}\n" in text:
        return _between(file, lines, begin, END)
    opening, key, rest = text.partition("\nstudy:\n")
    if not key:
        raise EngineError(f"{file} has no line 'study:' of its own, before which its header would end; write it so")
    return "\n".join([opening, begin, *lines, END]) + key + rest


def _between(file: Path, lines: Iterable[str], begin: str, end: str) -> str:
    """Return a file's text with these lines between its marks.

    Raises:
        EngineError: the file or a mark is not there.
    """
    if not file.is_file():
        raise EngineError(f"there is no {file}; make it, with the lines {begin!r} and {end!r}")
    head, opened, rest = file.read_text(encoding="utf-8").partition(f"{begin}\n")
    _, closed, tail = rest.partition(f"{end}\n")
    if not opened or not closed:
        raise EngineError(f"{file} must have the lines {begin!r} and {end!r}: what is between them is rewritten")
    return head + "\n".join([begin, *lines, end, ""]) + tail


def _expectations(foretold: Foretold) -> Iterator[str]:
    """Yield what was published of a study."""
    if foretold.known.startswith("0 "):
        yield "Expected accuracies: unknown, all of them."
        return
    yield f"Expected accuracies in percent, {foretold.known} known:"
    for line in as_table(foretold.study, foretold.expected):
        is_source = line[1:2] == ":"
        yield from _wrapped(line, "  ", "     ") if is_source else [f"  {line}"]


def _predictions(foretold: Foretold) -> Iterator[str]:
    """Yield what a study would take."""
    pricing, forecasts = foretold.pricing, foretold.forecasts
    views = ", ".join(f"{_views(foretold.of(stage))} {what}" for stage, what in STAGES.items())
    hours = ", ".join(f"{stage} {_hours(foretold.of(stage))}" for stage in STAGES)
    most = {stage: max((each.memory or 0 for each in foretold.of(stage)), default=0) for stage in STAGES}
    held = ", ".join(f"{stage} {memory(most)}" for stage, most in most.items() if most)
    clock = _rounded(sum(each.seconds or 0.0 for each in forecasts) / 3600)
    images = [f"{name} {size.train:,} + {size.test:,}" for name, size in sorted(foretold.plan.sizes.items())]
    for sentence in (
        f"Predicted image-views: {views}.",
        f"Predicted GPU-hours: {_hours(forecasts)} ({hours}), at a sustained {pricing.tflops:g} TFLOP/s; on "
        f"{pricing.processes} GPUs {clock} hours at best.",
        f"Predicted memory of each of {pricing.processes} GPUs, at least: {held}.",
        f"Images taken for training + tests: {', '.join(images)}.",
    ):
        yield from _wrapped(sentence, "", "  ")


def page_text(foretold: Sequence[Foretold]) -> str:
    """Return the page of the paper's studies as it should be.

    Raises:
        EngineError: it has no place for their table.
    """
    return _between(PAGE, _page_lines(foretold), PAGE_BEGIN, PAGE_END)


def _page_lines(foretold: Sequence[Foretold]) -> Iterator[str]:
    """Yield the table of studies, and what all of them would take."""
    speed = f"GPU-hours at {foretold[0].pricing.tflops:g} TFLOP/s"
    yield f"| what | command | {speed} | image-views | memory | expected accuracies (%) |"
    yield "|---|---|---|---|---|---|"
    for each in foretold:
        name, most = each.study.name, max((one.memory or 0 for one in each.forecasts), default=0)
        views = sum(one.step.image_views or 0 for stage in ("generate", "pretrain") for one in each.of(stage))
        yield (
            f"| {_title(name)} | `{command(name)}` | {_hours(each.forecasts)} | {views:,} | {memory(most)} | "
            f"{_known(each)} |"
        )
    steps = {one.step.command: one for each in foretold for one in each.forecasts}
    several = [one for each in foretold for one in each.forecasts]
    yield ""
    yield (
        f"All {len(foretold)} studies together: {_hours(list(steps.values()))} GPU-hours, and not {_hours(several)}, "
        f"because they share {len(several) - len(steps):,} of {len(several):,} runs."
    )


def command(name: str) -> str:
    """Return what a person types to run a study."""
    return f"python -m engine study {name} && dvc repro"


def _title(name: str) -> str:
    """Return what a study's header says that it reproduces.

    Raises:
        EngineError: it does not say.
    """
    file = study_file(name)
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(TITLE):
            return line.removeprefix(TITLE)
    raise EngineError(f"{file} has no line that begins with {TITLE!r}; say there which table or figure it is")


def _known(foretold: Foretold) -> str:
    """Write every published accuracy of a study, victim by victim."""
    parts = []
    for column, victim in enumerate(foretold.study.victims):
        known = [f"{line.label} {short(figure)}" for line in foretold.expected if (figure := line.figures[column])]
        parts += [f"{victim}: {', '.join(known)}"] if known else []
    return f"{'; '.join(parts)} ({foretold.known})" if parts else "unknown"


def _views(forecasts: Sequence[Forecast]) -> str:
    bounds = sorted({each.step.bound for each in forecasts if each.step.bound})
    total = f"{sum(each.step.image_views or 0 for each in forecasts):,}"
    return f"{total} ({', '.join(f'some {bound}' for bound in bounds)})" if bounds else total


def _hours(forecasts: Sequence[Forecast]) -> str:
    return _rounded(sum(each.device_seconds or 0.0 for each in forecasts) / 3600)


def _rounded(value: float) -> str:
    """Write three digits that count, for more are not known."""
    return f"{float(f'{value:.3g}'):,g}" if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
