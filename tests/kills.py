"""Real stages, killed at random moments and run again until they are done: what was lost, and what came out."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.smallproject import GENERATE, PRETRAIN, PRETRAIN_MOCO, PROBE, environment, run, small_project

STAGES = {"generate": GENERATE, "pretrain SimCLR": PRETRAIN, "pretrain MoCo": PRETRAIN_MOCO, "probe": PROBE}
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
COSTS = "cost"
"""The folder of times and memory, which no two runs share."""
STOPPED = 128 + signal.SIGTERM
MARGIN = 1.1
"""Kills come later than an undisturbed run takes, because two trials slow each other down."""


@dataclass(frozen=True)
class Kill:
    """One kill: of which stage, by what, and what it cost.

    Units: lost in seconds of work since the newest checkpoint, or since work began; None where it had not begun.
    """

    stage: str
    signal: signal.Signals
    lost: float | None
    is_saved: bool
    """Whether the next run finds a checkpoint."""


@dataclass
class Trial:
    """One stage, killed again and again until it was done."""

    stage: str
    kills: list[Kill] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What is not, byte for byte, what an undisturbed run makes; and errors that no kill explains."""


def made_in(root: Path) -> dict[str, str]:
    """Return the checksum of everything that stages made, but for what it cost."""
    artifacts = root / "artifacts"
    return {
        file.relative_to(artifacts).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(artifacts.rglob("*"))
        if file.is_file() and file.parent.name != COSTS
    }


@dataclass(frozen=True)
class Reference:
    """What undisturbed runs make, stage after stage: the project before each, what is there after it, its seconds."""

    before: dict[str, Path]
    after: dict[str, dict[str, str]]
    seconds: dict[str, float]


def reference_in(folder: Path) -> Reference:
    """Run every stage undisturbed, and keep the project as it was before each.

    Raises:
        RuntimeError: a stage failed.
    """
    root = small_project(folder / "undisturbed")
    found = Reference({}, {}, {})
    for number, (stage, arguments) in enumerate(STAGES.items()):
        found.before[stage] = folder / f"before-{number}"
        shutil.copytree(root, found.before[stage])
        start = time.monotonic()
        done = run(root, *arguments)
        found.seconds[stage] = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"{stage} fails undisturbed: {done.stderr}")
        found.after[stage] = made_in(root)
    return found


def try_stage(stage: str, reference: Reference, folder: Path, draws: random.Random, most: int) -> Trial:
    """Run a stage, kill it at random moments, at most so often, and start it again until it is done."""
    trial = Trial(stage)
    shutil.copytree(reference.before[stage], folder)
    done = False
    while not done and len(trial.kills) < most:
        number, moment = draws.choice(SIGNALS), draws.uniform(0, MARGIN * reference.seconds[stage])
        done = _run_and_kill(trial, folder, number, moment)
    if not done:
        _check(trial, run(folder, *STAGES[stage]))
    made, expected = made_in(folder), reference.after[stage]
    trial.wrong += [name for name in sorted({*made, *expected}) if made.get(name) != expected.get(name)]
    left = [str(file.relative_to(folder)) for file in (folder / ".work").rglob("*.pt")]
    trial.wrong += [f"left over: {name}" for name in left]
    shutil.rmtree(folder)
    return trial


def _run_and_kill(trial: Trial, folder: Path, number: signal.Signals, moment: float) -> bool:
    """Start the stage, kill it at a moment, and say whether it was done before."""
    started = time.time()
    process = subprocess.Popen(
        STAGES[trial.stage],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output = process.communicate(timeout=moment)
        killed_at = None
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        killed_at = time.time()
        output = process.communicate()
    if killed_at is None or process.returncode == 0:  # it may have been done when the signal came
        _check(trial, subprocess.CompletedProcess((), process.returncode, *output))
        return True
    if process.returncode not in (-number, STOPPED):
        trial.wrong.append(f"status {process.returncode}: {output[1]}")
    trial.kills.append(_cost(trial.stage, number, folder, started, killed_at))
    return False


def _check(trial: Trial, done: subprocess.CompletedProcess[str]) -> None:
    """See that a run that was left alone ended well, and went on from a checkpoint where there was one."""
    if done.returncode:
        trial.wrong.append(f"status {done.returncode}: {done.stderr}")
    if trial.kills and trial.kills[-1].is_saved != ("going on from" in done.stdout):
        trial.wrong.append(f"a checkpoint was {'not ' * trial.kills[-1].is_saved}used: {done.stdout}")


def _cost(stage: str, number: signal.Signals, folder: Path, started: float, killed_at: float) -> Kill:
    """Say what a kill cost; a stage that keeps checkpoints begins its work when it takes their lock."""
    checkpoints = folder / ".work/checkpoints"
    saved = [file.stat().st_mtime for file in checkpoints.rglob("*.json")]
    began = [lock.stat().st_mtime for lock in checkpoints.rglob("lock")] if stage != "probe" else [started]
    if max(began, default=0.0) < started:
        return Kill(stage, number, None, bool(saved))
    return Kill(stage, number, max(0.0, killed_at - max([*began, *saved])), bool(saved))


def kill_stages(folder: Path, *, points: int, seed: int, at_once: int = 2, most: int = 6) -> Iterator[Trial]:
    """Yield trials of every stage in turn until there were as many kills."""
    reference = reference_in(folder)
    kills = number = 0
    with ThreadPoolExecutor(at_once) as pool:
        while kills < points:
            started = []
            for stage in STAGES:
                draws = random.Random(f"{seed} {number}")
                started.append(pool.submit(try_stage, stage, reference, folder / f"trial-{number}", draws, most))
                number += 1
            for trial in (future.result() for future in started):
                kills += len(trial.kills)
                yield trial
