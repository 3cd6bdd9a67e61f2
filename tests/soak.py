"""``python -m tests.soak``: many tiny cells under ``engine repro``, whose processes are killed at random, until done.

Half of the cells make a file in two writes with a pause between them, the other half use it, and a report needs all.
Exits with 1 where a file is wrong in the end, or DVC finds something out of date.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.smallproject import PROJECT, environment, run

JOB = """
import hashlib, pathlib, sys, time
name, *needed = sys.argv[1:]
text = pathlib.Path(*needed).read_text() if needed else name
digest = hashlib.sha256(text.encode()).hexdigest()
with pathlib.Path("used" if needed else "made", name).open("w") as file:
    file.write(digest[:30])
    file.flush()
    time.sleep(0.2)
    file.write(digest[30:])
"""
STAGES = """
vars:
  - cells.json
stages:
  make:
    foreach: ${cells}
    do:
      cmd: python job.py ${item}
      deps: [job.py]
      outs:
        - made/${item}
  use:
    foreach: ${cells}
    do:
      cmd: python job.py ${item} made/${item}
      deps:
        - made/${item}
      outs:
        - used/${item}
  report:
    cmd: cat used/* > report.txt
    deps: [used]
    outs: [report.txt]
"""
WEIGHTS = {"a DVC process": 6.0, "a cell's command": 3.0, "the scheduler": 0.5}
SECONDS_BETWEEN_KILLS = 1.5
MOST_RUNS = 60


@dataclass
class Soaked:
    """What a soak came to."""

    cells: int
    kills: Counter[str] = field(default_factory=Counter)
    statuses: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    out_of_date: str = ""
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Say whether every run but the last may have failed, and nothing else has."""
        return not self.wrong and self.out_of_date == "{}" and self.statuses[-1] == 0

    def __str__(self) -> str:
        kills = ", ".join(f"{count} of {what}" for what, count in sorted(self.kills.items()))
        wrong = ", ".join(self.wrong) or "none"
        return (
            f"{self.cells} cells, {self.kills.total()} kills ({kills}), {len(self.statuses)} runs of `engine repro` in "
            f"{self.seconds:.0f} s; wrong files: {wrong}; out of date for DVC: {self.out_of_date}"
        )


def project_in(root: Path, names: Sequence[str]) -> None:
    """Make a git and DVC project of two stages a name and a report."""
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet")):
        done = run(root, *command)
        if done.returncode:
            raise RuntimeError(done.stderr)
    (root / ".dvc/config").write_text((PROJECT / ".dvc/config").read_text())
    (root / "job.py").write_text(JOB)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "cells.json").write_text(json.dumps({"cells": names}))
    (root / "params.yaml").write_text("precision: fp32\nlayout: here\n")
    (root / "specs/layouts").mkdir(parents=True)
    (root / "specs/layouts/here.yaml").write_text("kind: local\ndevice: cpu\n")
    for folder in ("made", "used"):
        (root / folder).mkdir()


def soak(root: Path, *, cells: int, jobs: int, kills: int, seed: int) -> Soaked:
    """Run the project again and again, killing its processes, until there were enough kills and a run ended well."""
    names = [f"c{number}" for number in range(cells // 2)]
    project_in(root, names)
    soaked, draws, start = Soaked(2 * len(names) + 1), random.Random(seed), time.monotonic()
    while len(soaked.statuses) < MOST_RUNS:
        before = soaked.kills.total()
        with (root / f"run-{len(soaked.statuses)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "engine", "repro", "--jobs", str(jobs)],
                cwd=root,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None:
                time.sleep(draws.expovariate(1 / SECONDS_BETWEEN_KILLS))
                if soaked.kills.total() < kills:
                    soaked.kills.update(_kill_one(process, draws))
        soaked.statuses.append(process.returncode)
        (root / ".git/index.lock").unlink(missing_ok=True)  # git's own, which says to remove it by hand after a kill
        was_left_alone = soaked.kills.total() == before
        if was_left_alone if process.returncode else soaked.kills.total() >= kills:
            break  # it failed by itself, or all is done
    soaked.seconds = time.monotonic() - start
    soaked.wrong = _wrong(root, names)
    soaked.out_of_date = run(root, "dvc", "status", "--json").stdout.strip()
    return soaked


def _kill_one(scheduler: subprocess.Popen[bytes], draws: random.Random) -> list[str]:
    """Kill a random process of a run, and return what it was; nothing where there was none."""
    with suppress(psutil.Error):
        process = psutil.Process(scheduler.pid)
        dvc = process.children()
        commands = [command for each in dvc for command in each.children(recursive=True)]
        found = {"a DVC process": dvc, "a cell's command": commands, "the scheduler": [process]}
        (what,) = draws.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if found[what]:
            gentle = what != "a DVC process" and draws.random() < 1 / 3
            draws.choice(found[what]).send_signal(signal.SIGTERM if gentle else signal.SIGKILL)
            return [what]
    return []


def _wrong(root: Path, names: Sequence[str]) -> list[str]:
    """Return the files whose content is not what their cell makes."""
    expected = {}
    for name in names:
        made = hashlib.sha256(name.encode()).hexdigest()
        expected |= {f"made/{name}": made, f"used/{name}": hashlib.sha256(made.encode()).hexdigest()}
    expected["report.txt"] = "".join(expected[f"used/{name}"] for name in sorted(names))
    return [name for name, text in expected.items() if not _holds(root / name, text)]


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text() == text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and return an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        soaked = soak(Path(scratch), cells=options.cells, jobs=options.jobs, kills=options.kills, seed=options.seed)
    print(soaked)
    return int(not soaked.is_right)


if __name__ == "__main__":
    sys.exit(main())
