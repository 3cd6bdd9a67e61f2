"""A project whose stages take seconds, for tests that run them in several processes, and watch and stop them."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]
PATIENCE = 300.0
KEY = "clean-{victim}-none-0"
VICTIM = """\
kind: simclr
backbone: {{kind: resnet18, width: 4, stages: [1]}}
views: {{size: 8}}
batch_size: {batch_size}
epochs: {epochs}
warmup_epochs: 0
"""
LAYOUT = "device: cpu\nthreads: 1\nworkers: 0\n"
SPECS = {
    "datasets/tiny.yaml": "kind: digits\nimage_size: 8\ntrain_per_class: 12\ntest_per_class: 5\n",
    "victims/short.yaml": VICTIM.format(batch_size=40, epochs=4),
    # Two hundred and forty steps: seconds in which it can be killed.
    "victims/long.yaml": VICTIM.format(batch_size=40, epochs=80),
    "victims/odd.yaml": VICTIM.format(batch_size=9, epochs=2),
    "layouts/alone.yaml": f"kind: local\n{LAYOUT}",
    "layouts/two.yaml": f"kind: torchrun\ndevices_per_node: 2\n{LAYOUT}checkpoint_minutes: 0.005\n",
}


def project(folder: Path) -> Path:
    """Fill a folder with specs, and with the released images of a clean poison."""
    shutil.copytree(PROJECT / "specs", folder / "specs")
    shutil.copy(PROJECT / "params.yaml", folder)
    for name, text in SPECS.items():
        (folder / "specs" / name).write_text(text)
    stage(folder, "generate", "--name", "clean", "--attack", "clean", "--init", "zero", "--layout", "alone")
    return folder


def pretrain(victim: str, layout: str) -> tuple[str, ...]:
    """Return the arguments that train a victim on the clean poison where a layout says."""
    coordinates = ("--poison", "clean", "--victim", victim, "--defense", "none", "--seed", "0")
    return ("pretrain", *coordinates, "--layout", layout)


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a stage on the tiny data set; what it says goes into the file ``said``, which is begun anew."""
    command = (sys.executable, "-m", "engine", *arguments, "--dataset", "tiny")
    with (folder / environment.pop("said", "said")).open("w") as said:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **environment},
            stdout=said,
            stderr=said,
            text=True,
        )


def stage(folder: Path, *arguments: str, fails: bool = False) -> str:
    """Run a stage to its end, and return what it said."""
    code = start(folder, *arguments).wait(PATIENCE)
    said = (folder / "said").read_text()
    assert (code != 0) == fails, said
    return said


def encoder(folder: Path, victim: str) -> Path:
    return folder / "artifacts/tiny/encoder" / f"{KEY.format(victim=victim)}.safetensors"


def losses(folder: Path, victim: str) -> list[float]:
    file = folder / "artifacts/tiny/curve" / f"{KEY.format(victim=victim)}.csv"
    with file.open() as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines)]


def checkpoints(folder: Path, victim: str) -> list[Path]:
    """Return the finished checkpoints of a victim's training."""
    return sorted(folder.glob(f".work/checkpoints/pretrain-tiny-{KEY.format(victim=victim)}/[0-9]*.json"))


def workers(launcher: int) -> list[psutil.Process]:
    """Return the processes that do a launcher's work: the children of its one child."""
    return [worker for torchrun in psutil.Process(launcher).children() for worker in torchrun.children()]


def until(condition: Callable[[], object], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {PATIENCE} s:\n{(folder / 'said').read_text()}"
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    """End a stage that a test has started and not seen to its end, with all its processes."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for each in family:
        if each.is_running():
            each.kill()
