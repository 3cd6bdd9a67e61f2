"""Real stages in several processes of torch elastic: the same numbers, deaths, signals, faults."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.artifacts.encoder import read_encoder
from engine.executors import torchrun
from engine.specfiles import SpecFault, load
from engine.study import Cell

CELL = Cell("scenes", "clean", "tiny", "none", 0)
VICTIM = """
kind: simclr
backbone: {kind: resnet18, width: 4, stages: [1]}
views: {size: 16}
batch_size: 100
epochs: 16
lr: 0.05
warmup_epochs: 1
"""
LAYOUT = "kind: torchrun\ndevice: cpu\nthreads: 1\ncheckpoint_minutes: 0.001\n"
LAYOUTS = {
    "one": "kind: local\ndevice: cpu\nthreads: 1\n",
    "two": LAYOUT + "devices_per_node: 2\n",
    "three": LAYOUT + "devices_per_node: 3\n",
}


def start(cell: Cell, layout: str, *, stage: str = "pretrain", **further: str) -> subprocess.Popen[str]:
    options = {"dataset": cell.dataset, "poison": cell.poison, "victim": cell.victim, "defense": cell.defense}
    options |= {"seed": str(cell.seed), "layout": layout, **further}
    named = [text for name, value in options.items() for text in (f"--{name}", value)]
    return subprocess.Popen(
        [sys.executable, "-m", "engine", stage, *named], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(cell: Cell, layout: str, **how: str) -> str:
    started = start(cell, layout, **how)
    said = started.communicate(timeout=200)[0]
    assert started.returncode == 0, said
    return said


def losses(cell: Cell) -> list[float]:
    """Return the losses of the first twenty steps: later, rounding has grown beyond what tells layouts apart."""
    return [float(row["loss"]) for row in csv.DictReader(cell.curve.read_text().splitlines())][:2]


@pytest.fixture
def made(project: Path) -> Path:
    """A project with a clean poison of 1,000 images, and layouts."""
    (project / "specs/victims/tiny.yaml").write_text(VICTIM)
    for name, text in LAYOUTS.items():
        (project / f"specs/layouts/{name}.yaml").write_text(text)
    for command in (
        ("validate",),
        ("generate", *["--dataset", "scenes", "--name", "clean", "--attack", "clean", "--init", "zero"]),
    ):
        subprocess.run([sys.executable, "-m", "engine", *command], check=True, capture_output=True)
    return project


def wait_for(found: Callable[[], Any], started: subprocess.Popen[str]) -> Any:
    """Return what is found, once it is there and true."""
    deadline = time.monotonic() + 120
    while not (there := found()):
        assert time.monotonic() < deadline
        assert started.poll() is None, started.communicate()[0]
        time.sleep(0.02)
    return there


def checkpoints() -> list[Path]:
    return sorted(Path(".work/checkpoints").glob(f"pretrain-scenes-{CELL.key}/*.json"))


def workers(started: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes that train."""
    family = psutil.Process(started.pid).children(recursive=True)
    return [each for each in family if "RANK" in each.environ() and "engine" in each.cmdline()]


@pytest.mark.slow
def test_two_processes_make_what_one_makes_and_survive_deaths_and_signals(made: Path) -> None:
    run(CELL, "one")
    alone = losses(CELL)
    said = run(CELL, "two")
    assert losses(CELL) == pytest.approx(alone, rel=1e-5)
    assert said.count("16/16") == said.count("encoder/clean-tiny-none-0.safetensors") == 1  # only the first reports
    undisturbed = CELL.encoder.read_bytes()

    CELL.encoder.unlink()
    started = start(CELL, "two")
    wait_for(checkpoints, started)
    workers(started)[-1].kill()
    said = started.communicate(timeout=200)[0]
    assert started.returncode == 0, said
    assert "going on from" in said
    assert CELL.encoder.read_bytes() == undisturbed

    CELL.encoder.unlink()
    started = start(CELL, "two")
    wait_for(checkpoints, started)
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=100)[0]
    assert started.returncode == 128 + signal.SIGTERM, said
    assert "the same command goes on from the last checkpoint" in said
    assert not CELL.encoder.exists()
    assert "going on from" in run(CELL, "one")  # with another number of processes, too
    assert losses(CELL) == pytest.approx(alone, rel=1e-5)
    assert not checkpoints()


@pytest.mark.slow
def test_a_fault_of_the_user_ends_all_processes_at_once_and_is_said_once(made: Path) -> None:
    started = start(CELL, "three")
    said = started.communicate(timeout=100)[0]
    assert started.returncode == 1
    assert "the victim's batch_size is 100, which 3 processes cannot share out evenly" in said.splitlines()[-1]
    assert not CELL.encoder.exists()


@pytest.mark.slow
def test_a_probe_runs_in_one_process(made: Path) -> None:
    run(CELL, "one")
    (made / "specs/probes/short.yaml").write_text("linear: {epochs: 2, copies: 1}\n")
    said = run(CELL, "two", stage="probe", downstream="scenes", protocol="short")
    assert said.count("artifacts/scenes/probe/clean-tiny-none-0-scenes.json") == 1
    assert CELL.probe("scenes").is_file()


@pytest.mark.slow
def test_two_nodes_meet(made: Path) -> None:
    run(CELL, "one")
    alone = losses(CELL)
    CELL.encoder.unlink()
    port = 20_000 + os.getpid() % 10_000
    (made / "specs/layouts/nodes.yaml").write_text(
        LAYOUT + f"devices_per_node: 1\nnodes: 2\nrendezvous: 127.0.0.1:{port}\n"
    )
    nodes = [start(CELL, "nodes") for _ in range(2)]
    for node in nodes:
        said = node.communicate(timeout=200)[0]
        assert node.returncode == 0, said
    assert losses(CELL) == pytest.approx(alone, rel=1e-5)
    _, about = read_encoder(CELL.encoder)
    assert about["victim"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("devices_per_node: 2\nnodes: 2", r"rendezvous: is where several nodes meet, and nodes is 2"),
        ("devices_per_node: 2\nrendezvous: a:1", r"rendezvous: is where several nodes meet, and nodes is 1"),
        (
            "devices_per_node: 2\nnodes: 2\nrendezvous: a:1\nrestarts: 1",
            r"restarts: must be 0 on several nodes, given 1",
        ),
        ("devices_per_node: 2\nnodes: 2\nrendezvous: a;b:1", r"rendezvous: .*pattern"),
        ("devices_per_node: 0", r"devices_per_node: .*greater than 0"),
        ("nodes: 1", r"devices_per_node: is required and missing"),
    ],
)
def test_a_wrong_field_is_named(project: Path, lines: str, words: str) -> None:
    (project / "specs/layouts/wrong.yaml").write_text(f"kind: torchrun\n{lines}\n")
    with pytest.raises(SpecFault, match=words):
        load("layouts", "wrong")


def test_processes_are_counted() -> None:
    spec = torchrun.Spec(kind="torchrun", nodes=2, devices_per_node=4, rendezvous="head:29500")
    assert spec.processes == 8
