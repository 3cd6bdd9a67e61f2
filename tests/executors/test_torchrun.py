"""Stages in several processes of torch elastic: the numbers of one process, whoever dies or is stopped."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from engine.artifacts.encoder import read_encoder
from engine.executors.slurm import Spec as Slurm
from engine.executors.torchrun import Spec
from tests.executors import stages

slow = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"devices_per_node": 0}, "greater than 0"),
        ({"nodes": 2}, "rendezvous: is where several nodes meet, and nodes is 2"),
        ({"rendezvous": "a:1"}, "rendezvous: is where several nodes meet, and nodes is 1"),
        ({"nodes": 2, "rendezvous": "a"}, "should match pattern"),
        ({"nodes": 2, "rendezvous": "a b:1"}, "should match pattern"),
        ({"nodes": 2, "rendezvous": "a:1", "restarts": 1}, "restarts: must be 0 on several nodes, given 1"),
        ({"restarts": -1}, "greater than or equal to 0"),
        ({"device": "cuda:1"}, "device 'cuda:1' is one GPU, for 2 processes"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Spec(**{"kind": "torchrun", "devices_per_node": 2, **fields})


def test_a_layout_says_how_many_processes_there_are_and_how_many_are_here() -> None:
    several = Spec(kind="torchrun", nodes=2, devices_per_node=4, rendezvous="head.cluster-1:29500", restarts=0)
    assert (several.processes, several.processes_here) == (8, 4)
    cluster = Slurm(kind="slurm", nodes=2, devices_per_node=4)
    assert (cluster.processes, cluster.processes_here) == (8, 0)
    assert Spec(kind="torchrun", devices_per_node=1, device="cuda:1").processes == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which one process has trained one victim, and two processes have trained two."""
    folder = stages.project(tmp_path_factory.mktemp("torchrun"))
    stages.stage(folder, *stages.pretrain("short", "alone"))
    for kind in ("encoder", "curve"):
        shutil.copytree(folder / "artifacts/tiny" / kind, folder / "alone/artifacts/tiny" / kind)
    stages.stage(folder, *stages.pretrain("short", "two"))
    stages.stage(folder, *stages.pretrain("long", "two"))
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """The same project, in which nothing has been trained."""
    for name in ("specs", "artifacts/tiny/poison"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copy(made / "params.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start a stage in the project; what is left of it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        started.append(stages.start(project, *arguments, **environment))
        return started[-1]

    yield begin
    for process in started:
        stages.end(process)


@slow
def test_two_processes_train_what_one_trains(made: Path) -> None:
    alone, shared = stages.losses(made / "alone", "short"), stages.losses(made, "short")
    assert len(shared) == 4
    assert shared == pytest.approx(alone, rel=1e-5)
    made_encoders = sorted(file.name for file in (made / "artifacts/tiny/encoder").iterdir())
    assert made_encoders == [stages.encoder(made, victim).name for victim in ("long", "short")]
    assert not list((made / ".work/checkpoints").iterdir())


@slow
def test_results_and_progress_are_printed_once(project: Path) -> None:
    said = stages.stage(project, *stages.pretrain("short", "two"))
    encoder = stages.encoder(project, "short").relative_to(project)
    assert said.count(str(encoder)) == 1
    assert said.count("4/4 after") == 1


@slow
def test_a_killed_worker_lets_all_start_again_from_the_checkpoint(made: Path, project: Path, start: Start) -> None:
    launcher = start(*stages.pretrain("long", "two"))
    stages.until(lambda: stages.checkpoints(project, "long"), project)
    before = stages.workers(launcher.pid)
    assert len(before) == 2
    before[1].kill()
    assert launcher.wait(stages.PATIENCE) == 0, (project / "said").read_text()
    said = (project / "said").read_text()
    assert said.count("going on from .work/checkpoints/") == 1
    assert stages.encoder(project, "long").read_bytes() == stages.encoder(made, "long").read_bytes()
    assert stages.losses(project, "long") == stages.losses(made, "long")


@slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_launcher_leaves_a_checkpoint_and_the_next_run_goes_on(
    number: signal.Signals, made: Path, project: Path, start: Start
) -> None:
    launcher = start(*stages.pretrain("long", "two"))
    stages.until(lambda: stages.checkpoints(project, "long"), project)
    (last, *_) = reversed(stages.checkpoints(project, "long"))
    workers = stages.workers(launcher.pid)
    launcher.send_signal(number)
    assert launcher.wait(stages.PATIENCE) == 128 + number, (project / "said").read_text()
    assert not any(worker.is_running() for worker in workers)
    assert (project / "said").read_text().count("error: stopped as asked") == 1
    assert stages.checkpoints(project, "long")[-1] > last
    assert not stages.encoder(project, "long").exists()
    assert "going on from" in stages.stage(project, *stages.pretrain("long", "two"))
    assert stages.encoder(project, "long").read_bytes() == stages.encoder(made, "long").read_bytes()


@slow
def test_workers_do_not_outlive_a_killed_launcher(project: Path, start: Start) -> None:
    launcher = start(*stages.pretrain("long", "two"))
    stages.until(lambda: stages.checkpoints(project, "long"), project)
    workers = stages.workers(launcher.pid)
    launcher.kill()
    launcher.wait()
    stages.until(lambda: not any(worker.is_running() for worker in workers), project)
    assert len(workers) == 2


@slow
def test_a_fault_that_a_user_can_mend_ends_all_at_once_and_is_said_once(project: Path, start: Start) -> None:
    launcher = start(*stages.pretrain("odd", "two"))
    assert launcher.wait(stages.PATIENCE) == 1
    said = (project / "said").read_text()
    assert said.count("is 9, which 2 processes cannot share out evenly") == 1, said
    assert "error: " in said


@slow
def test_a_worker_that_dies_too_often_ends_the_stage(project: Path, start: Start) -> None:
    layout = project / "specs/layouts/once.yaml"
    layout.write_text(stages.SPECS["layouts/two.yaml"] + "restarts: 0\n")
    launcher = start(*stages.pretrain("long", "once"))
    stages.until(lambda: stages.checkpoints(project, "long"), project)
    stages.workers(launcher.pid)[0].kill()
    assert launcher.wait(stages.PATIENCE) == 1
    said = (project / "said").read_text()
    assert "failed in its processes (status 1" in said
    assert "the same command goes on from the last checkpoint" in said


@slow
def test_work_that_cannot_be_shared_runs_in_one_process(made: Path, project: Path, start: Start) -> None:
    shutil.copytree(made / "artifacts/tiny/encoder", project / "artifacts/tiny/encoder")
    (project / "specs/protocols/banked.yaml").write_text("linear: {epochs: 60, copies: 60}\n")
    launcher = start("probe", *stages.pretrain("short", "two")[1:], "--downstream", "tiny", "--protocol", "banked")
    seen: set[int] = set()
    while launcher.poll() is None:
        with suppress(psutil.NoSuchProcess):  # it ends while it is looked at
            seen.add(len(stages.workers(launcher.pid)))
        time.sleep(0.05)
    assert launcher.returncode == 0, (project / "said").read_text()
    assert max(seen) == 1
    assert list((project / "artifacts/tiny/probe").iterdir())


@slow
def test_two_nodes_meet_and_train_what_one_process_trains(made: Path, project: Path, start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = f"nodes: 2\nrendezvous: 127.0.0.1:{port}\n"
    text = stages.SPECS["layouts/two.yaml"].replace("devices_per_node: 2", f"devices_per_node: 1\n{meeting}")
    (project / "specs/layouts/nodes.yaml").write_text(text)
    launchers = [start(*stages.pretrain("short", "nodes"), said=f"said{node}") for node in range(2)]
    said = "".join((project / f"said{node}").read_text() for node in range(2))
    assert [launcher.wait(stages.PATIENCE) for launcher in launchers] == [0, 0], said
    assert stages.losses(project, "short") == pytest.approx(stages.losses(made / "alone", "short"), rel=1e-5)
    assert stages.encoder(project, "short").read_bytes() == stages.encoder(made, "short").read_bytes()


@slow
def test_an_encoder_says_nothing_of_the_layout(made: Path) -> None:
    (_, shared), (_, alone) = (read_encoder(stages.encoder(folder, "short")) for folder in (made, made / "alone"))
    assert shared == alone
