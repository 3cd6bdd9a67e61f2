"""``python -m tests.faults``: kill real stages at random points, inject every other fault, and tell what happened.

Exits with 1 where a result was wrong or a fault was not told as it should be. ``--write`` puts the tables into
docs/failures.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.injections import INJECTIONS, Outcome, Skipped
from tests.kills import SIGNALS, STAGES, Trial, kill_stages

PAGE = Path(__file__).parents[1] / "docs" / "failures.md"
BEGIN, END = "<!-- matrix: python -m tests.faults --write -->", "<!-- end of the matrix -->"


def table_of_kills(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of the table of kills, and what they come to."""
    yield "| Stage | Signal | Kills | At work | With a checkpoint | Work lost, median and most (s) |"
    yield "|---|---|---:|---:|---:|---:|"
    for stage in STAGES:
        for number in SIGNALS:
            kills = [kill for trial in trials for kill in trial.kills if (kill.stage, kill.signal) == (stage, number)]
            if kills:
                lost = [kill.lost for kill in kills if kill.lost is not None]
                row = (stage, number.name, len(kills), len(lost), sum(kill.is_saved for kill in kills))
                cost = f"{statistics.median(lost):.1f}, {max(lost):.1f}" if lost else "none"
                yield f"| {' | '.join(map(str, row))} | {cost} |"
    wrong = [f"{trial.stage}: {fault}" for trial in trials for fault in trial.wrong]
    kills_of_all = sum(len(trial.kills) for trial in trials)
    yield ""
    yield f"{kills_of_all} kills in {len(trials)} runs to the end; wrong results: {len(wrong)}."
    yield from wrong


def table_of_faults(outcomes: Sequence[tuple[Outcome, bool]]) -> Iterator[str]:
    """Yield the lines of the table of all other faults."""
    yield "| Injected | Status | As expected | What is said |"
    yield "|---|---|---|---|"
    for outcome, is_expected in outcomes:
        said = outcome.said.replace("|", "\\|").replace("\n", " ")
        yield f"| {outcome.injected} | {outcome.status} | {'yes' if is_expected else 'NO'} | {said} |"


def inject(folder: Path) -> Iterator[tuple[Outcome, bool]]:
    """Yield what every injected fault came to, and whether it was told as it should be; what cannot be tried, is."""
    for number, (injection, (status, words)) in enumerate(INJECTIONS.items()):
        place = folder / str(number)
        place.mkdir()
        try:
            outcome = injection(place)
        except Skipped as reason:
            yield Outcome(injection.__name__.replace("_", " "), "not tried", str(reason)), True
        else:
            yield outcome, outcome.status == status and all(word in outcome.said for word in words)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and return an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--points", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    parser.add_argument("--at-once", type=int, default=2, help="stages that run at a time")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args(arguments)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as scratch:
        kills, others = Path(scratch) / "kills", Path(scratch) / "others"
        kills.mkdir()
        others.mkdir()
        for trial in kill_stages(kills, points=options.points, seed=options.seed, at_once=options.at_once):
            trials.append(trial)
            print(f"{trial.stage}: {len(trial.kills)} kills, wrong: {trial.wrong or 'nothing'}", flush=True)
        outcomes = list(inject(others))
    said = f"`python -m tests.faults --points {options.points} --seed {options.seed}`:"
    lines = [said, "", *table_of_kills(trials), "", *table_of_faults(outcomes)]
    print("\n".join(lines))
    if options.write:
        write(lines)
    return int(any(trial.wrong for trial in trials) or not all(is_expected for _, is_expected in outcomes))


def write(lines: Sequence[str]) -> None:
    """Put the tables into their place on the page."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text("\n".join([f"{head}{BEGIN}", *lines, f"{END}{tail}"]))


if __name__ == "__main__":
    sys.exit(main())
