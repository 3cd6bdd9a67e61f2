"""Slurm jobs on a real cluster of two nodes: submitted, attached to, requeued, resumed, detached from, cancelled."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executors import cluster, stages

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]
REASON = cluster.missing()

# The process that submits or attaches. Its arguments: what is asked of Slurm, and the job's command.
DRIVER = """
import json
import sys
from pathlib import Path
from engine.errors import EngineError
from engine.protocols import Job
from engine.slurm import Allocation, submit_or_attach
wishes, *command = sys.argv[1:]
outs = (Path("outs/made.txt"),)
job = Job("pretrain", "cp_s-simclr-none-0", "d", tuple(command), outs, "fp32", {}, print, is_shared=True)
try:
    submit_or_attach(job, Allocation(**json.loads(wishes)))
except EngineError as error:
    sys.exit(f"error: {error}")
"""

# A stage in small: counts to a number, begins where its checkpoint says, writes that on SIGTERM.
STAGE = """
import os, signal, sys, time
from pathlib import Path
checkpoint, made = Path("checkpoint"), Path(os.environ["ENGINE_OUTPUT_ROOT"], "outs/made.txt")
first = step = int(checkpoint.read_text()) if checkpoint.exists() else 0
def stop(*_):
    checkpoint.write_text(str(step))
    print("wrote a checkpoint of step", step, flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
while step < int(sys.argv[1]) and not Path("go").exists():
    step += 1
    print("step", step, flush=True)
    time.sleep(0.2)
made.parent.mkdir(parents=True)
made.write_text(f"begun at {first}, job {os.environ['SLURM_JOB_ID']}")
"""

# One process of a world: all gather each other's rank and node.
WORLD = """
import os
from pathlib import Path
import torch, torch.distributed as dist
dist.init_process_group("gloo")
mine = torch.tensor([dist.get_rank(), int(os.environ["SLURM_NODEID"])])
everybody = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
dist.all_gather(everybody, mine)
if dist.get_rank() == 0:
    made = Path(os.environ["ENGINE_OUTPUT_ROOT"], "outs/made.txt")
    made.parent.mkdir(parents=True)
    made.write_text(str(sorted(tensor.tolist() for tensor in everybody)))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def slurm_conf() -> Iterator[Path]:
    if REASON is not None:
        pytest.skip(REASON)
    with cluster.cluster() as configuration:
        yield configuration


class Submitter:
    """Starts submitting processes in a project, and asks Slurm what became of their jobs."""

    def __init__(self, project: Path, conf: Path) -> None:
        self.project = project
        self.environment = {**os.environ, "SLURM_CONF": str(conf), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        self.processes: list[subprocess.Popen[str]] = []
        (project / "stage.py").write_text(STAGE)
        (project / "world.py").write_text(WORLD)

    def start(self, *command: str, **wishes: Any) -> subprocess.Popen[str]:
        """Submit a job, or attach to it."""
        return self.run(sys.executable, "-c", DRIVER, json.dumps(wishes), *command)

    def run(self, *words: str) -> subprocess.Popen[str]:
        """Start a process that submits, in a group of its own, as a shell does."""
        with (self.project / f"said{len(self.processes)}").open("w") as output:
            process = subprocess.Popen(
                words,
                cwd=self.project,
                env=self.environment,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def said(self, driver: int = -1) -> str:
        """Return what a submitting process has printed."""
        return (self.project / f"said{range(len(self.processes))[driver]}").read_text()

    def until(self, text: str, driver: int = -1) -> None:
        """Wait for a text in the output of a submitting process."""
        deadline = time.monotonic() + stages.PATIENCE
        while text not in self.said(driver):
            assert time.monotonic() < deadline, (
                f"{text!r} did not come within {stages.PATIENCE} s, but:\n{self.said(driver)}"
            )
            time.sleep(0.05)

    def slurm(self, *command: str) -> str:
        return subprocess.run(
            command, cwd=self.project, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def jobs(self) -> list[str]:
        """Return the numbers of all jobs that this project ever had, as its submitters told them."""
        return re.findall(r"^job (\d+): submitted", "".join(map(self.said, range(len(self.processes)))), re.MULTILINE)

    def state(self, job: str) -> str:
        return self.slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()

    def hasten(self, job: str) -> None:
        """Let a requeued job begin in a second or two, which Slurm would have wait for longer than cred_expire."""
        deadline = time.monotonic() + stages.PATIENCE
        while self.state(job) != "PENDING":
            assert time.monotonic() < deadline, (
                f"job {job} is not PENDING within {stages.PATIENCE} s, but {self.state(job)}"
            )
            time.sleep(0.05)
        # Not in the second in which it ended: a node would take the job's new credential for the revoked one.
        self.slurm("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    @property
    def made(self) -> str:
        return (self.project / "outs/made.txt").read_text()


@pytest.fixture
def submitter(slurm_conf: Path, tmp_path: Path) -> Iterator[Submitter]:
    made = Submitter(tmp_path, slurm_conf)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    made.slurm("scancel", "--quiet", "--me")


def test_a_killed_submitter_is_followed_by_one_that_attaches_to_the_same_job(submitter: Submitter) -> None:
    first = submitter.start("stage.py", "100")
    submitter.until("step 2\n")
    first.kill()
    first.wait()
    second = submitter.start("stage.py", "100")
    submitter.until("step 5\n")
    (submitter.project / "go").touch()
    assert second.wait(30) == 0, submitter.said()
    (job,) = submitter.jobs()
    assert f"job {job}: attached, RUNNING" in submitter.said()
    assert submitter.made == f"begun at 0, job {job}"
    name = next((submitter.project / ".work/slurm").iterdir()).name
    assert submitter.slurm("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A").split() == [job]


def test_a_second_dvc_repro_attaches_to_the_job_of_a_killed_one(submitter: Submitter) -> None:
    (submitter.project / "submit.py").write_text(DRIVER)
    stage = {"cmd": f"{sys.executable} submit.py {{}} stage.py 100", "outs": ["outs/made.txt"]}
    (submitter.project / "dvc.yaml").write_text(json.dumps({"stages": {"pretrain": stage}}))
    dvc = (sys.executable, "-m", "dvc")
    submitter.slurm(*dvc, "init", "--no-scm", "--quiet")
    first = submitter.run(*dvc, "repro")
    submitter.until("step 2\n")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = submitter.run(*dvc, "repro")
    submitter.until("step 5\n")
    (submitter.project / "go").touch()
    assert second.wait(40) == 0, submitter.said()
    (job,) = submitter.jobs()
    assert f"job {job}: attached, RUNNING" in submitter.said()
    assert submitter.made == f"begun at 0, job {job}"
    assert submitter.slurm(*dvc, "status", "--quiet") == ""


def _by_slurm(submitter: Submitter, job: str) -> None:
    submitter.slurm("scontrol", "requeue", job)


def _by_the_signal_before_the_time_limit(submitter: Submitter, job: str) -> None:
    submitter.slurm("scancel", "--signal=USR2", "--batch", job)


def _by_a_preempting_job(submitter: Submitter, job: str) -> None:
    submitter.slurm("srun", "--partition=high", "--nodes=2", "--exclusive", "true")


@pytest.mark.parametrize("requeue", [_by_slurm, _by_the_signal_before_the_time_limit, _by_a_preempting_job])
def test_a_requeued_job_goes_on_from_its_checkpoint(
    submitter: Submitter, requeue: Callable[[Submitter, str], None]
) -> None:
    process = submitter.start("stage.py", "100")
    submitter.until("step 2\n")
    (job,) = submitter.jobs()
    requeue(submitter, job)
    submitter.hasten(job)
    submitter.until(f"job {job} runs on node1, requeued 1 times")
    (submitter.project / "go").touch()
    assert process.wait(30) == 0, submitter.said()
    begun = int(re.fullmatch(rf"begun at (\d+), job {job}", submitter.made)[1])  # type: ignore[index]
    assert begun >= 2
    assert f"wrote a checkpoint of step {begun}\n" in submitter.said()
    assert submitter.said().count("step 1\n") == 1


def test_two_nodes_form_one_world(submitter: Submitter) -> None:
    assert submitter.start("world.py", nodes=2).wait(60) == 0, submitter.said()
    # Which node has rank 0 depends on which came first.
    assert submitter.made in ("[[0, 0], [1, 1]]", "[[0, 1], [1, 0]]")


def test_a_training_on_two_nodes_is_requeued_and_ends_as_if_it_had_not_been(
    submitter: Submitter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    uninterrupted = stages.project(tmp_path_factory.mktemp("uninterrupted"))
    (uninterrupted / "specs/victims/long.yaml").write_text(stages.VICTIM.format(batch_size=40, epochs=40))
    project = Path(shutil.copytree(uninterrupted, submitter.project, dirs_exist_ok=True))
    (project / "specs/layouts/nodes.yaml").write_text(
        "kind: slurm\nnodes: 2\ncheckpoint_minutes: 0.005\ndevice: cpu\nthreads: 1\nworkers: 0\n"
    )
    process = submitter.run(sys.executable, "-m", "engine", *stages.pretrain("long", "nodes"), "--dataset", "tiny")
    submitter.until(": submitted, its log is")
    (job,) = submitter.jobs()
    stages.until(lambda: stages.checkpoints(project, "long"), project)
    submitter.slurm("scontrol", "requeue", job)
    # While Slurm lets the job wait. One process would sum in another order, and over a hundred steps that grows: see
    # test_torchrun for a short training.
    stages.stage(uninterrupted, *stages.pretrain("long", "two"))
    submitter.until("requeued 1 times")
    assert process.wait(60) == 0, submitter.said()
    said = submitter.said()
    assert "going on from .work/checkpoints/" in said
    encoder = stages.encoder(project, "long")
    assert said.count(f"{encoder.relative_to(project)}\n") == 1
    assert encoder.read_bytes() == stages.encoder(uninterrupted, "long").read_bytes()
    assert stages.losses(project, "long") == stages.losses(uninterrupted, "long")


def test_ctrl_c_detaches_and_cancel_ends_the_job(submitter: Submitter) -> None:
    process = submitter.start("stage.py", "100")
    submitter.until("step 1\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 1
    (job,) = submitter.jobs()
    assert f"error: interrupted: detached from job {job}" in submitter.said()
    assert submitter.state(job) == "RUNNING"
    watcher = submitter.start("stage.py", "100")
    submitter.until(f"job {job}: attached, RUNNING")
    assert f"cancelled job {job}: pretrain@cp_s-simclr-none-0" in submitter.slurm(
        sys.executable, "-m", "engine", "cancel", "pretrain@cp_s-simclr-none-0"
    )
    assert watcher.wait(30) == 1
    assert f"job {job} (pretrain cp_s-simclr-none-0) is CANCELLED and has left no exit code" in submitter.said()
    assert submitter.state(job) == "CANCELLED"


def test_a_job_that_slurm_refuses_is_told_in_slurms_words(submitter: Submitter) -> None:
    assert submitter.start("stage.py", "1", partition="gpu").wait(30) == 1
    assert "sbatch failed with exit code 1 and said: " in submitter.said()
    assert "invalid partition specified: gpu" in submitter.said()
    assert submitter.jobs() == []
