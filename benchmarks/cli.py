"""The command line of the benchmarks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure the engine side by side with kornia, torchvision, Pillow and lightly. A missed target is no failure.",
)

FOLDER = Path("docs/benchmarks")


@app.command()
def run(
    quick: Annotated[bool, typer.Option("--quick", help="Only the comparisons, in a few minutes; no pages.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write {name: comparison} to this file.")] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads; by default one, and in the full run then two.", show_default=False)
    ] = 0,
    only: Annotated[list[str] | None, typer.Option(help="A benchmark; may be repeated. No pages then.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the full run's pages.")] = FOLDER,
) -> None:
    """Run the benchmarks, print which targets are reached, and write what was found."""
    from benchmarks import lab as settings
    from benchmarks import report
    from benchmarks.registry import benchmarks

    chosen = _chosen(only)
    is_whole = not (quick or only)
    measures = settings.quick if quick else settings.full
    labs = [measures(count) for count in _threads(threads, several=is_whole)]
    if is_whole:
        _require_rivals()
    runs = []
    for lab in labs:
        runs.append(_measure(lab, chosen, with_tables=is_whole))
        report.show(runs[-1]["comparisons"], benchmarks(), lab.threads)
    if json is not None:
        report.write_json(json, runs[0]["comparisons"])
    if is_whole:
        _write_pages(runs, out)


def _threads(asked: int, *, several: bool) -> list[int]:
    if asked:
        return [asked]
    return [1, 2] if several and (os.cpu_count() or 1) > 1 else [1]


def _chosen(only: list[str] | None) -> list[str]:
    from benchmarks.registry import benchmarks

    known = list(benchmarks())
    if unknown := sorted(set(only or ()) - set(known)):
        raise typer.BadParameter(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in (only or known)]


def _require_rivals() -> None:
    import importlib.util

    from benchmarks.registry import RIVALS

    if missing := [name for name in RIVALS if not importlib.util.find_spec(name)]:
        raise typer.BadParameter(f"the full run needs {' and '.join(missing)}; `make bench` installs what is missing")


def _measure(lab: Any, chosen: list[str], *, with_tables: bool) -> dict[str, Any]:
    from benchmarks.registry import benchmarks, modules

    comparisons, tables = {}, {}
    with lab.open():
        for name in chosen:
            typer.echo(f"threads {lab.threads}: {name}", err=True)
            comparisons[name] = benchmarks()[name].run(lab)
        for theme in modules() if with_tables else []:
            typer.echo(f"threads {lab.threads}: table {theme.TITLE!r}", err=True)
            tables[theme.TITLE] = theme.rows(lab)
    return {"threads": lab.threads, "comparisons": comparisons, "tables": tables}


def _write_pages(runs: list[dict[str, Any]], out: Path) -> None:
    from benchmarks import errors, report
    from benchmarks.figure import draw
    from benchmarks.machine import describe
    from benchmarks.registry import benchmarks, modules

    machine, count = describe(), 64
    report.write_json(out / "results.json", {"machine": machine, "runs": runs})
    (out / "results.md").write_text(report.results_page(machine, runs, benchmarks(), modules()))
    (out / "errors.md").write_text(report.errors_page(errors.table(count), count))
    draw(runs[0], out / "results.png")
    typer.echo(f"{out}/results.md, results.png, results.json and errors.md are written.")
