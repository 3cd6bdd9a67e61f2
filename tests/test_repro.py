"""``python -m engine repro`` on real DVC projects: the same end as a serial run, whatever fails or is killed."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.lock import make_lock

from engine.errors import EngineError
from engine.executors.local import Spec as Local
from engine.executors.torchrun import Spec as Torchrun
from engine.parallel import slots
from engine.parallel.lengths import Lengths
from engine.parallel.logs import last_lines, said
from engine.parallel.pipeline import Plan
from engine.parallel.slots import share
from engine.spec import ExecutorSpec
from engine.specfiles import load
from tests.executors.stages import end

PROJECT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | {
    "PYTHONPATH": str(PROJECT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "SHELL": "/bin/sh",
}
PATIENCE = 300.0

Start = Callable[..., "subprocess.Popen[str]"]
Trapped = Callable[..., "tuple[Path, subprocess.Popen[str]]"]

CHAIN = """
stages:
  make:
    foreach: ${cells}
    do:
      cmd: sleep ${item} && echo ${key} >> made.log && echo ${key} > made/${key}
      params:
        - version.yaml:
            - version
      outs:
        - made/${key}
  use:
    foreach: ${cells}
    do:
      cmd: echo ${key} >> used.log && cat made/${key} made/${key} > used/${key}
      deps:
        - made/${key}
      outs:
        - used/${key}
  report:
    cmd: cat used/* > report.txt
    deps:
      - used
    outs:
      - report.txt
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project: git, DVC as this project sets it up, a layout."""
    folder = tmp_path_factory.mktemp("template")
    run(folder, "git", "init", "--quiet", ".")
    run(folder, "git", "config", "user.email", "nobody@example.org")
    run(folder, "git", "config", "user.name", "nobody")
    run(folder, "dvc", "init", "--quiet")
    shutil.copy(PROJECT / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / "specs" / "layouts").mkdir(parents=True)
    (folder / "specs" / "layouts" / "here.yaml").write_text("kind: local\ndevice: auto\n")
    (folder / "params.yaml").write_text("precision: fp32\nlayout: here\n")
    (folder / "version.yaml").write_text("version: 1\n")
    (folder / ".gitignore").write_text("/.work\n/made\n/used\n/*.log\n/report.txt\n")
    for name in ("made", "used"):
        (folder / name).mkdir()
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "Begin")
    return folder


@pytest.fixture
def pipeline(template: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a project with a dvc.yaml, and with values that it reads."""

    def make(stages: str, **values: object) -> Path:
        folder = tmp_path / "project"
        shutil.copytree(template, folder)
        (folder / "dvc.yaml").write_text(f"vars:\n  - values.yaml\n{stages}")
        (folder / "values.yaml").write_text(json.dumps(values or {"none": 0}))
        return folder

    return make


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert command[0] == sys.executable or done.returncode == 0, done.stderr
    return done


def repro(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "engine", "repro", *arguments, **environment)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start ``engine repro`` in a project; what is left of it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "engine", "repro", *arguments],
                cwd=folder,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        end(process)
        process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def running_in(folder: Path) -> list[psutil.Process]:
    """The processes whose working folder is this one, but for those that have ended and wait to be collected."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_end_is_that_of_a_serial_run_to_the_byte(pipeline: Callable[..., Path], tmp_path: Path) -> None:
    folder = pipeline(CHAIN, cells={"a": 1.5, "b": 0.1, "c": 0.4, "d": 0})
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  elsewhere:\n    cmd: of another study\n")
    serial = tmp_path / "serial"
    shutil.copytree(folder, serial)
    run(serial, "dvc", "repro")

    done = repro(folder, "--jobs", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "made.log").read_text().split() != ["a", "b", "c", "d"], "nothing ran out of order"
    assert (folder / "dvc.lock").read_bytes() == (serial / "dvc.lock").read_bytes()
    assert (folder / "report.txt").read_bytes() == (serial / "report.txt").read_bytes()
    assert list((folder / "dvc.lock").read_text().split("\n  ")[:2]) == ["schema: '2.0'\nstages:", "elsewhere:"]
    assert run(folder, "git", "status", "--porcelain", "dvc.lock").stdout == "A  dvc.lock\n"
    assert json.loads(run(folder, "dvc", "status", "--json").stdout) == {}

    again = repro(folder, "--jobs", "3")
    assert again.returncode == 0
    assert "9 up to date" in again.stdout
    assert sorted((folder / "made.log").read_text().split()) == ["a", "b", "c", "d"]


def test_a_failure_skips_what_needs_it_and_nothing_else(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0, "b": "0 && echo the disk is full && exit 7", "c": 0})
    done = repro(folder, "--jobs", "2")
    assert done.returncode == 1
    assert "4 done, 1 failed, 2 skipped" in done.stdout
    assert "failed: make@b (exit code 255" in done.stdout
    assert "its log, .work/logs/make@b.log, ends with" in done.stdout
    assert "    the disk is full\n" in done.stdout
    assert "skipped for want of make@b: use@b, report" in done.stdout
    assert (folder / ".work/logs/make@b.log").read_text().startswith("Running stage 'make@b':")
    assert names(folder / "used") == ["a", "c"]

    (folder / "values.yaml").write_text(json.dumps({"cells": {"a": 0, "b": 0, "c": 0}}))
    mended = repro(folder, "--jobs", "2")
    assert mended.returncode == 0, mended.stdout
    assert "3 done, 4 up to date" in mended.stdout
    assert (folder / "made.log").read_text().split().count("a") == 1
    assert "the disk is full" in (folder / ".work/logs/make@b.previous.log").read_text()


def test_what_makes_the_same_again_does_not_run_what_needs_it(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0, "b": 0})
    assert repro(folder).returncode == 0
    (folder / "version.yaml").write_text("version: 2\n")
    planned = repro(folder, "--dry").stdout
    assert "make@a  changed deps: version.yaml" in planned
    assert "use@a  if make@a makes something new" in planned
    again = repro(folder)
    assert "2 done, 3 up to date" in again.stdout
    assert sorted((folder / "made.log").read_text().split()) == ["a", "a", "b", "b"]
    assert sorted((folder / "used.log").read_text().split()) == ["a", "b"]


def test_results_come_back_from_the_cache(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0, "b": 0})
    assert repro(folder).returncode == 0
    before = (folder / "dvc.lock").read_bytes()
    (folder / "made/a").unlink()
    (folder / "dvc.lock").unlink()
    (folder / "used/a").unlink()
    back = repro(folder, "--jobs", "2")
    assert back.returncode == 0
    assert (folder / "dvc.lock").read_bytes() == before
    assert "use@a: from cache" in back.stdout
    assert sorted((folder / "used.log").read_text().split()) == ["a", "b"]


def test_only_what_is_named_and_what_it_needs_runs(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0, "b": 0})
    done = repro(folder, "use@b")
    assert done.returncode == 0
    assert "2 done in" in done.stdout
    assert names(folder / "made") == ["b"]
    unknown = repro(folder, "use@z")
    assert unknown.returncode == 1
    assert "error: DVC cannot tell what to run: Stage 'use@z' not found inside 'dvc.yaml'" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_the_longest_chain_starts_first_where_lengths_are_known(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0, "b": 0, "c": 0})
    (folder / ".work").mkdir()
    (folder / ".work/lengths.json").write_text(
        json.dumps({"make@a": 1.0, "make@b": 2.0, "use@c": 5.0, "use@a": 0.1, "use@b": 0.1})
    )
    assert repro(folder, "--jobs", "1").returncode == 0
    assert (folder / "made.log").read_text().split() == ["c", "b", "a"]
    assert set(json.loads((folder / ".work/lengths.json").read_text())) >= {"make@c", "use@a", "report"}


def test_a_stage_that_never_ran_is_expected_to_take_what_its_like_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lengths = Lengths()
    plan = Plan(("a@1", "a@2", "b"), {"a@1": (), "a@2": (), "b": ("a@1",)}, {}, {})
    assert lengths.chains(plan) == {"a@1": 0, "a@2": 0, "b": 0}
    lengths.record("a@1", 10.0)
    lengths.record("b", 1.0)
    assert lengths.expected("a@2") == 10.0
    assert lengths.expected("c") is None
    assert Lengths().chains(plan) == {"a@1": 11.0, "a@2": 10.0, "b": 1.0}


TRAPPED = """
stages:
  stubborn:
    foreach: ${cells}
    do:
      cmd: python job.py ${key}
      deps:
        - job.py
      outs:
        - made/${key}
"""

JOB = """
import pathlib, signal, sys, time
name = sys.argv[1]
def checkpoint(*_):
    pathlib.Path(f"{name}.checkpoint.log").write_text("told")
    time.sleep(SLEEP)
    sys.exit(3)
signal.signal(signal.SIGTERM, checkpoint)
pathlib.Path(f"{name}.started.log").touch()
while not pathlib.Path("go.log").exists():
    time.sleep(0.05)
pathlib.Path(f"made/{name}").write_text(name)
"""


@pytest.fixture
def trapped(pipeline: Callable[..., Path], start: Start) -> Trapped:
    """Start a project whose commands wait for go.log, and on SIGTERM write a checkpoint that takes a while."""

    def begin(cells: str, sleep: float = 0.5) -> tuple[Path, subprocess.Popen[str]]:
        folder = pipeline(TRAPPED, cells=dict.fromkeys(cells, 0))
        (folder / "job.py").write_text(JOB.replace("SLEEP", str(sleep)))
        running = start(folder, "--jobs", "2")
        wait_until(lambda: len(list(folder.glob("*.started.log"))) == 2)
        return folder, running

    return begin


def test_ctrl_c_lets_cells_write_a_checkpoint_and_starts_no_more(trapped: Trapped) -> None:
    folder, running = trapped("abc")
    second = repro(folder)
    assert second.returncode == 1
    assert f"another `engine repro` runs in this workspace (process {running.pid}); wait for it" in second.stderr

    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, output
    assert "1 waiting, 2 stopped" in output
    assert sorted(file.name for file in folder.glob("*.checkpoint.log")) == ["a.checkpoint.log", "b.checkpoint.log"]
    assert not (folder / "c.started.log").exists()
    assert running_in(folder) == []
    assert json.loads((folder / ".dvc/tmp/rwlock").read_text()) == {}

    (folder / "go.log").touch()
    done = repro(folder, "--jobs", "2")
    assert done.returncode == 0, done.stdout
    assert "3 done" in done.stdout


def test_a_second_ctrl_c_kills(trapped: Trapped) -> None:
    folder, running = trapped("ab", sleep=10 * PATIENCE)
    running.send_signal(signal.SIGINT)
    wait_until(lambda: len(list(folder.glob("*.checkpoint.log"))) == 2)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, output
    assert running_in(folder) == []
    (folder / "go.log").touch()
    assert repro(folder, "--jobs", "2").returncode == 0


def test_a_killed_scheduler_leaves_no_process_and_a_project_that_goes_on(trapped: Trapped) -> None:
    folder, running = trapped("abc", sleep=3)
    running.kill()
    running.communicate(timeout=PATIENCE)
    wait_until(lambda: len(list(folder.glob("*.checkpoint.log"))) == 2)
    (folder / "go.log").touch()
    assert len([process for process in running_in(folder) if "job.py" in process.cmdline()]) == 2
    done = repro(folder, "--jobs", "2")  # while the killed run's cells still write their checkpoints
    assert done.returncode == 0, done.stdout + done.stderr
    assert names(folder / "made") == ["a", "b", "c"]
    assert running_in(folder) == []


def test_a_killed_dvc_fails_its_cell_and_takes_its_command_along(trapped: Trapped) -> None:
    folder, running = trapped("abc")
    (command,) = [process for process in running_in(folder) if process.cmdline()[:3] == ["python", "job.py", "a"]]
    (dvc,) = [process for process in command.parents() if process.pid == os.getpgid(command.pid)]
    dvc.kill()
    wait_until((folder / "a.checkpoint.log").exists)
    (folder / "go.log").touch()
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1
    assert re.search(r"failed: stubborn@a \(killed by signal 9 after \d+ s\)", output), output
    assert "2 done, 1 failed" in output
    assert running_in(folder) == []
    assert repro(folder).returncode == 0


@contextmanager
def table_of_files_in_use(folder: Path) -> Iterator[dict[str, Any]]:
    """Change DVC's table as its processes do: while this one holds it, they wait."""
    file = folder / ".dvc/tmp/rwlock"
    with make_lock(str(file.with_suffix(".lock")), tmp_dir=str(file.parent), wait=True):
        entries = json.loads(file.read_text())
        yield entries
        file.write_text(json.dumps(entries))


def test_another_dvc_process_in_the_way_is_waited_for(pipeline: Callable[..., Path], start: Start) -> None:
    folder = pipeline(CHAIN, cells={"a": "0; until test -e go.log; do sleep 0.05; done", "b": 0})
    running = start(folder, "--jobs", "1")
    wait_until((folder / ".work/logs/make@a.log").exists)
    wait_until(lambda: "made/a" in (folder / ".dvc/tmp/rwlock").read_text())
    with table_of_files_in_use(folder) as entries:
        entries["write"][str(folder / "used/a")] = {"pid": os.getpid(), "cmd": "dvc pull"}
    (folder / "go.log").touch()
    wait_until((folder / ".work/logs/use@a.log").exists)
    wait_until(lambda: "is busy" in (folder / ".work/logs/use@a.log").read_text())
    with table_of_files_in_use(folder) as entries:
        del entries["write"][str(folder / "used/a")]
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, output
    assert "use@a: another DVC process is in the way, trying again" in output
    assert "5 done" in output


def test_half_a_table_of_the_files_in_use_is_no_obstacle(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0})
    (folder / ".dvc/tmp").mkdir(exist_ok=True)
    (folder / ".dvc/tmp/rwlock").write_text('{"write": {"/somewhere": {"pid": 1, "c')
    done = repro(folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_file_is_replaced_and_never_half_written(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": 0})
    assert repro(folder, "make@a").returncode == 0
    os.link(folder / "dvc.lock", folder / "before.log")
    text = (folder / "dvc.lock").read_text()
    assert repro(folder).returncode == 0
    assert (folder / "before.log").read_text() == text
    assert "report:" in (folder / "dvc.lock").read_text()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> x\n", "possible merge conflicts"),
        ("schema: '2.0'\nstages:\n  a:\n    cmd: [x", "is invalid"),
        ("", "is empty"),
    ],
)
def test_a_broken_lock_file_is_told_with_a_way_out(pipeline: Callable[..., Path], text: str, complaint: str) -> None:
    folder = pipeline(CHAIN, cells={"a": 0})
    (folder / "dvc.lock").write_text(text)
    done = repro(folder)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "`git checkout dvc.lock`" in done.stderr
    assert (folder / "dvc.lock").read_text() == text
    assert names(folder / "made") == []


ENVIRON = """
stages:
  see:
    foreach: [a, b]
    do:
      cmd: echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $OMP_WAIT_POLICY" > made/${item} && sleep 1
      params:
        - params.yaml:
            - layout
      outs:
        - made/${item}
"""


def test_each_cell_gets_a_gpu_of_its_own(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(ENVIRON)
    done = repro(folder, "--jobs", "2", CUDA_VISIBLE_DEVICES="3,5", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout
    assert sorted((folder / "made" / name).read_text() for name in "ab") == ["3 1 PASSIVE\n", "5 1 PASSIVE\n"]
    refused = repro(folder, "--jobs", "3", CUDA_VISIBLE_DEVICES="3,5")
    assert refused.returncode == 1
    assert "--jobs 3, but there are 2 GPUs" in refused.stderr


def on(device: str) -> ExecutorSpec:
    return Local(kind="local", device=device)


def in_processes(count: int, device: str) -> ExecutorSpec:
    return Torchrun(kind="torchrun", device=device, devices_per_node=count)


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda _: set(range(2, 10)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shared = share(3, on("cpu"))
    assert [slot.threads for slot in shared] == [2, 2, 2]
    assert all(slot.gpus == () for slot in shared)
    assert [slot.threads for slot in share(20, on("cpu"))] == [1] * 20
    assert [slot.threads for slot in share(None, on("cpu"))] == [8]
    assert [slot.threads for slot in share(2, in_processes(2, "cpu"))] == [2, 2]
    assert [slot.threads for slot in share(None, in_processes(3, "cpu"))] == [2]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [slot.threads for slot in share(2, on("cpu"))] == [3, 3]


def test_a_cluster_divides_its_own_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.chdir(PROJECT)
    layout = load("layouts", "slurm_two_nodes")
    assert layout.device == "cuda"
    slots_ = share(7, layout)
    assert len(slots_) == 7
    assert [slot.environment() for slot in slots_] == [{}] * 7
    assert len(share(None, layout)) == 1


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU-aa\\nGPU-bb\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert [slot.gpus for slot in share(None, on("auto"))] == [("GPU-aa",), ("GPU-bb",)]
    assert [slot.gpus for slot in share(1, on("cuda"))] == [("GPU-aa",)]
    assert [slot.gpus for slot in share(2, on("cpu"))] == [(), ()]
    assert [slot.gpus for slot in share(None, on("cuda:1"))] == [()]
    with pytest.raises(EngineError, match=r"--jobs 3, but there are 2 GPUs.*at most --jobs 2"):
        share(3, on("auto"))
    with pytest.raises(EngineError, match=r"one device is cuda:1, which cannot serve --jobs 2"):
        share(2, on("cuda:1"))
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert [slot.gpus for slot in share(2, on("auto"))] == [(), ()]
    with pytest.raises(EngineError, match="no GPU"):
        share(1, on("cuda"))


def test_a_cell_of_several_processes_gets_a_gpu_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7,8")
    assert [slot.gpus for slot in share(None, in_processes(2, "auto"))] == [("3", "5"), ("6", "7")]
    two_nodes = Torchrun(kind="torchrun", devices_per_node=4, nodes=2, rendezvous="a:1")
    (slot,) = share(None, two_nodes)
    assert slot.environment()["CUDA_VISIBLE_DEVICES"] == "3,5,6,7"
    assert str(slot).startswith("GPUs 3+5+6+7, ")
    with pytest.raises(
        EngineError, match=r"--jobs 3, but there are 5 GPUs, and a cell .* 2 of its own; use at most .*2"
    ):
        share(3, in_processes(2, "cuda"))
    with pytest.raises(
        EngineError, match=r"there are 5 GPUs, and a cell .* gets 6 .* a layout of fewer devices_per_node"
    ):
        share(None, in_processes(6, "auto"))


def test_logs_tell_how_far_a_cell_is(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_lines(log, 3) == []
    log.write_text("> python x\nsurrogate: 5/20 after 12 s  loss 3.2\n\n")
    assert said(log).line == "surrogate: 5/20 after 12 s  loss 3.2"
    assert said(log).remaining == 36.0
    log.write_text("\x1b[31mfirst\x1b[0m\n10%\r20%\rthe rest\n" + "x" * 10_000 + "\nend\n")
    assert last_lines(log, 1) == ["end"]
    assert said(log).remaining is None
    log.write_text("\x1b[31mfirst\x1b[0m\n10%\r20%\n")
    assert last_lines(log, 5) == ["first", "10%", "20%"]


def test_a_terminal_gets_a_table(pipeline: Callable[..., Path]) -> None:
    folder = pipeline(CHAIN, cells={"a": "1 && echo 'work: 1/4 after 3 s  note' && sleep 1", "b": 0})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "engine", "repro"]
    environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=theirs, stdin=theirs) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the terminal closes with its last process
                break
    os.close(ours)
    text = shown.decode()
    assert running.returncode == 0, text
    assert re.search(r"make@a .* 00:09 .*work: 1/4 after 3 s  note", text), "no row with what is left and what it says"
    assert "5 done in" in text
