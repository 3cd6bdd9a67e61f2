"""Slurm jobs without a cluster: what is submitted, what is refused, and what happens when Slurm does not play along."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from engine import plugins
from engine.cli import app
from engine.errors import EngineError
from engine.executors.slurm import Spec
from engine.launching import JobFailed
from engine.protocols import Job
from engine.slurm import Allocation, submit_or_attach
from engine.slurm.attempts import Attempt, Attempts, job_name
from engine.slurm.client import SlurmUnreachable
from engine.slurm.script import batch_script, options
from engine.specfiles import load
from tests.executors.fake_slurm import JOB, MAKES_OUT, OUT, QUICK, FakeSlurm, job, wait_for
from tests.executors.stages import PATIENCE

PROJECT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "scripts"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """Slurm's commands on PATH, in a project whose jobs are lines of shell."""
    fake = FakeSlurm(tmp_path / "slurm")
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield fake
    fake.end_all()


def attempts() -> Attempts:
    return Attempts(Path.cwd() / ".work/slurm" / job_name(job(), Path.cwd()))


def run(made: Job | None = None, **pace: float) -> None:
    submit_or_attach(made or job(), Allocation(), replace(QUICK, **pace))


# What is submitted


def rendered(allocation: Allocation, command: tuple[str, ...] = ("-m", "engine", "pretrain", "--seed", "0")) -> str:
    attempt = Attempt(Path("/home/ada/a project/.work/slurm/name/1"))
    return batch_script(
        allocation,
        job(command=command),
        attempt=attempt,
        project=Path("/home/ada/a project"),
    )


@pytest.mark.parametrize(
    ("file", "allocation"),
    [
        ("one_process.sh", Allocation()),
        ("no_requeue.sh", Allocation(requeue=False, cpus_per_device=8, prelude=("module purge", "module load cuda"))),
        ("one_node_of_four.sh", Allocation(devices_per_node=4)),
        ("two_nodes_of_four.sh", Allocation(nodes=2, devices_per_node=4, max_requeues=3)),
    ],
)
def test_the_batch_script_is_a_function_of_what_is_asked_for(
    file: str, allocation: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/home/ada/a project/.venv/bin/python")
    script = rendered(allocation)
    assert script == (GOLDEN / file).read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_options_say_what_the_layout_says_and_no_more() -> None:
    allocation = Allocation(
        devices_per_node=2, cpus_per_device=4, partition="gpu", time_limit="1-0", gpus_per_node=2, extra=("--nice=5",)
    )
    made = options(allocation, name="n", attempt=Attempt(Path("/p/100%/1")), project=Path("/p"))
    assert made == (
        "--job-name=n",
        "--chdir=/p",
        "--output=/p/100%%/1/log",
        "--open-mode=append",
        "--dependency=singleton",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--partition=gpu",
        "--time=1-0",
        "--gpus-per-node=2",
        "--cpus-per-task=8",
        "--requeue",
        "--signal=B:USR2@120",
        "--nice=5",
    )


LINE = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
NAME = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(LINE, max_size=5), name=NAME.filter(lambda name: name not in (".", "..")))
def test_no_text_becomes_shell(words: list[str], name: str, tmp_path: Path) -> None:
    """A folder of any name holds the project; the command is printed back, each word ended by a zero byte."""
    project = tmp_path / name
    attempt = Attempt(project / "attempt")
    attempt.folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("printf"))
        script = batch_script(
            Allocation(),
            job(command=("%s\\0", *words), dataset="$(touch injected)\ntouch injected\n"),
            attempt=attempt,
            project=project,
        )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    remark, _, printed = done.stdout.partition(b"\n")
    assert remark.startswith(b"job ")
    assert printed.decode() == "".join(f"{word}\0" for word in words or [""])
    assert attempt.exit_code() == 0
    assert sorted(entry.name for entry in project.iterdir()) == ["attempt"]
    assert not (tmp_path / "injected").exists()
    shutil.rmtree(project)


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\x1bb", ""])
@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "gres", "extra", "prelude"])
def test_values_are_lines_without_control_characters(field: str, text: str) -> None:
    value: Any = (f"--comment={text}" if text else "--",) if field == "extra" else text
    with pytest.raises(ValidationError, match=field):
        Spec(kind="slurm", **{field: (text,) if field == "prelude" else value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extra": ("-A group",)}, "should match pattern"),
        ({"extra": ("--output=x",)}, "--output, which the engine gives itself"),
        ({"extra": ("--outp=x",)}, "may stand for"),
        ({"extra": ("--wrap=ls",)}, "--wrap"),
        ({"extra": ("--array=0-3",)}, "--array"),
        ({"time_limit": "0:90"}, "should match pattern"),
        ({"time_limit": "3"}, "requeued at once, again and again"),
        ({"time_limit": "1:00:00", "signal_before": 3600}, "requeued at once"),
        ({"memory": "much"}, "should match pattern"),
        ({"devices_per_node": 4, "gpus_per_node": 2}, "gpus_per_node 2 is less than devices_per_node 4"),
        ({"gpus_per_node": 1, "gres": "gpu:1"}, "give one of them"),
        ({"nodes": 0}, "greater than 0"),
    ],
)
def test_a_layout_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Spec(kind="slurm", **fields)


@pytest.mark.parametrize("time_limit", ["4", "4:00", "0:04:00", "0-1", "0-0:04", "1-00:00:00"])
def test_every_way_to_write_a_time_limit_is_read(time_limit: str) -> None:
    assert Spec(kind="slurm", time_limit=time_limit).time_limit == time_limit


@pytest.mark.parametrize(("name", "processes"), [("slurm", 1), ("slurm_two_nodes", 8)])
def test_the_example_layouts_ask_for_what_they_say(name: str, processes: int) -> None:
    spec = load("layouts", name)
    allocation = plugins.build("layouts", spec).allocation
    assert allocation.nodes * allocation.devices_per_node == processes
    assert allocation.gpus_per_node == spec.devices_per_node
    assert allocation.time_limit == spec.time_limit


def test_a_name_tells_projects_cells_and_configurations_apart() -> None:
    here = Path("/home/ada/one")
    name = job_name(job(), here)
    assert name.endswith(f"-pretrain-d-cp_s-simclr-none-0-{job().identity[:12]}")
    others = [
        job_name(job(), Path("/home/ada/two")),
        job_name(job(about={"seed": 1}), here),
        job_name(job(key="cp_c-simclr-none-0"), here),
        job_name(job(stage="probe"), here),
        job_name(job(dataset="e"), here),
    ]
    assert len({name, *others}) == 6
    for key in ("a,b", "a b", "a\n", "a/b", "$(a)"):
        with pytest.raises(EngineError, match="cannot be a Slurm job's name"):
            job_name(job(key=key), here)


def test_work_that_cannot_be_shared_asks_for_one_process(slurm: FakeSlurm) -> None:
    everything = Allocation(nodes=2, devices_per_node=4, gpus_per_node=4, cpus_per_device=2)
    submit_or_attach(job(is_shared=False), everything, QUICK)
    asked = (slurm / "sbatch.arguments").read_text().splitlines()
    assert {"--nodes=1", "--gpus-per-node=1", "--cpus-per-task=2"} <= set(asked)


# The script, run by bash alone


def started(script: str, slurm: FakeSlurm, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, **slurm.environment, "SLURM_JOB_ID": str(JOB), "SLURM_JOB_NODELIST": "here"}
    return subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, env={**variables, **environment})


def prepared(command: str, allocation: Allocation | None = None) -> tuple[Attempt, str]:
    attempt = attempts().new()
    made = batch_script(allocation or Allocation(), job(command), attempt=attempt, project=Path.cwd())
    return attempt, made


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {PATIENCE} s"
        time.sleep(0.02)


def test_a_signal_before_the_time_limit_requeues_and_leaves_no_exit_code(slurm: FakeSlurm) -> None:
    attempt, script = prepared(f"trap 'exit 5' TERM; echo ready > ready; {wait_for('go')}")
    with started(script, slurm) as process:
        until(Path("ready").exists)
        process.send_signal(signal.SIGUSR2)
        until((slurm / "scontrol.arguments").exists)
        assert process.poll() is None  # the stage works on until Slurm ends it
        process.send_signal(signal.SIGTERM)  # as Slurm does to every process of the job
        subprocess.run(["pkill", "-TERM", "-P", str(process.pid)], check=True)
        assert process.wait() == 5
    assert (slurm / "scontrol.arguments").read_text() == f"requeue {JOB}\n"
    assert attempt.exit_code() is None


def test_an_exit_code_is_the_commands_own_though_a_signal_came_between(slurm: FakeSlurm) -> None:
    attempt, script = prepared(f"echo ready > ready; {wait_for('go')}; exit 3")
    with started(script, slurm) as process:
        until(Path("ready").exists)
        process.send_signal(signal.SIGUSR2)
        until((slurm / "scontrol.arguments").exists)
        Path("go").touch()
        assert process.wait() == 3
    assert attempt.exit_code() == 3


def test_a_job_that_is_requeued_after_its_end_does_nothing(slurm: FakeSlurm) -> None:
    attempt, script = prepared("echo again >> runs")
    for _ in range(2):
        with started(script, slurm) as process:
            assert process.wait() == 0
    assert Path("runs").read_text() == "again\n"
    assert attempt.exit_code() == 0


def test_a_job_gives_up_after_too_many_requeues(slurm: FakeSlurm) -> None:
    attempt, script = prepared("touch ran", Allocation(max_requeues=2))
    with started(script, slurm, SLURM_RESTART_COUNT="3") as process:
        assert process.wait() == 1
    assert attempt.exit_code() == 1
    assert not Path("ran").exists()


def test_a_prelude_that_fails_ends_the_job(slurm: FakeSlurm) -> None:
    attempt, script = prepared("touch ran", Allocation(prelude=("false", "true")))
    with started(script, slurm) as process:
        assert process.wait() == 1
    assert attempt.exit_code() is None  # Slurm says FAILED
    assert not Path("ran").exists()


# Submitting, attaching, and what goes wrong


def test_a_job_is_submitted_shown_and_published(slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    run(job(f"echo inside=$ENGINE_INSIDE; {MAKES_OUT}"))
    assert OUT.read_text() == "made\n"
    assert slurm.submissions == 1
    shown = capsys.readouterr().out
    assert "job 7: submitted, its log is .work/slurm/" in shown
    assert "inside=1\n" in shown


def test_running_a_finished_stage_again_submits_it_again(slurm: FakeSlurm) -> None:
    run()
    OUT.unlink()
    run()
    assert OUT.read_text() == "made\n"
    assert slurm.submissions == 2


def test_what_ended_while_nobody_watched_is_published_without_a_new_job(slurm: FakeSlurm) -> None:
    attempt = attempts().new()
    attempt.exit.write_text("0\n")
    (attempt.outs / OUT).parent.mkdir(parents=True)
    (attempt.outs / OUT).write_text("made unwatched\n")
    run()
    assert OUT.read_text() == "made unwatched\n"
    assert slurm.submissions == 0


def test_what_failed_while_nobody_watched_is_tried_again(slurm: FakeSlurm) -> None:
    attempts().new().exit.write_text("1\n")
    run()
    assert OUT.read_text() == "made\n"
    assert slurm.submissions == 1


def test_a_refusal_is_passed_on_and_blocks_nothing(slurm: FakeSlurm) -> None:
    slurm.refuse("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(SlurmUnreachable, match=r"invalid partition specified: gpu[\s\S]*The script is \.work/slurm/"):
        run()
    (slurm / "sbatch.refuses").unlink()
    run()
    assert OUT.read_text() == "made\n"


def test_an_unknown_queue_is_asked_again_before_anything_is_submitted(
    slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.fail(2)
    run()
    assert slurm.submissions == 1
    assert capsys.readouterr().out.count("Unable to contact slurm controller (connect failure); asking again") == 2


def test_nothing_is_submitted_while_the_queue_stays_unknown(slurm: FakeSlurm) -> None:
    slurm.fail(10_000)
    with pytest.raises(SlurmUnreachable, match="none was submitted"):
        run(patience=0.3)
    assert slurm.submissions == 0
    assert slurm.questions >= 2


def test_a_running_job_survives_a_queue_that_does_not_answer(slurm: FakeSlurm) -> None:
    slow = f"{wait_for(slurm / 'go')}; {MAKES_OUT}"
    (slurm / "bin" / "sbatch").write_text(
        (slurm / "bin" / "sbatch")
        .read_text()
        .replace('echo "7;cluster"', 'yes | head -n 4 > "$FAKE/squeue.fails"; echo 7')
    )
    emptied = f"{wait_for(slurm / 'squeue.fails')}; while [ -s '{slurm / 'squeue.fails'}' ]; do sleep 0.02; done"
    with subprocess.Popen(["timeout", "30", "bash", "-c", f"{emptied}; touch '{slurm / 'go'}'"]):
        run(job(slow))
    assert OUT.read_text() == "made\n"
    assert slurm.submissions == 1


def test_a_failed_job_is_reported_with_the_end_of_its_log(slurm: FakeSlurm) -> None:
    with pytest.raises(JobFailed) as caught:
        run(job("seq 100; echo error: no images; exit 3"))
    message = str(caught.value)
    log = attempts().latest().log.relative_to(Path.cwd())  # type: ignore[union-attr]
    assert f"job 7 (pretrain cp_s-simclr-none-0) failed with exit code 3; the end of its log {log}:" in message
    assert message.splitlines()[1:] == [f"  {number}" for number in range(82, 101)] + ["  error: no images"]
    assert not OUT.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("CANCELLED", "is CANCELLED and has left no exit code"),
        ("TIMEOUT", "is TIMEOUT and has left no exit code"),
        ("COMPLETED", "is COMPLETED and has left no exit code"),
        (None, "is forgotten by Slurm and has left no exit code"),
    ],
)
def test_a_job_that_ends_without_a_word_has_failed(slurm: FakeSlurm, state: str | None, message: str) -> None:
    if state is not None:
        slurm.end_as(state)
    with pytest.raises(JobFailed, match=message):
        run(job("echo last words; kill -KILL $PPID"))


def test_an_exit_code_that_a_network_file_system_shows_late_is_waited_for(slurm: FakeSlurm) -> None:
    slurm.end_as("COMPLETED")
    late = f'{MAKES_OUT}; (sleep 0.4; echo 0 > "$attempt/exit") & kill -KILL $PPID'
    run(job(f"attempt=${{ENGINE_OUTPUT_ROOT%/outs}}; {late}"), appear=30)
    assert OUT.read_text() == "made\n"


def test_a_job_that_ends_well_without_its_outs_has_failed(slurm: FakeSlurm) -> None:
    with pytest.raises(JobFailed, match=f"did not write {OUT}"):
        run(job("true"))


def test_without_slurm_the_missing_command_is_named(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(slurm / "nothing"))
    with pytest.raises(EngineError, match=r"squeue is not on PATH: .* login node"):
        run()


def test_variables_that_narrow_a_listing_or_name_another_job_are_not_passed_on(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_CPU_BIND", "none")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    run(job(f"env > environment; {MAKES_OUT}"))
    variables = dict(line.split("=", 1) for line in Path("environment").read_text().splitlines() if "=" in line)
    assert not {"SQUEUE_PARTITION", "SLURM_CPU_BIND"} & set(variables)
    assert variables["SLURM_CONF"] == "/etc/slurm.conf"


# Two processes


DRIVER = """
import sys
from dataclasses import replace
from engine.slurm import Allocation, submit_or_attach
from tests.executors.fake_slurm import QUICK, job
sys.executable = "/bin/sh"
from engine.errors import EngineError
try:
    submit_or_attach(job(sys.argv[1]), Allocation(), replace(QUICK, second_interrupt=float(sys.argv[2])))
except EngineError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def drive(slurm: FakeSlurm, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a process that submits or attaches, as DVC would; its output goes into a file of its own."""
    python = str(Path(sys.prefix) / "bin" / "python")
    processes: list[subprocess.Popen[str]] = []

    def start(shell: str, second_interrupt: float = 0.2) -> subprocess.Popen[str]:
        output = (tmp_path / f"driver{len(processes)}").open("w")
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        processes.append(
            subprocess.Popen(
                [python, "-c", DRIVER, shell, str(second_interrupt)],
                stdout=output,
                stderr=output,
                text=True,
                env=environment,
            )
        )
        output.close()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


WAITS = f"echo it runs; {wait_for('go')}; {MAKES_OUT}"


def shows(tmp_path: Path, driver: int, text: str) -> Callable[[], bool]:
    return lambda: text in (tmp_path / f"driver{driver}").read_text()


def test_a_killed_watcher_is_followed_by_one_that_attaches(
    slurm: FakeSlurm, drive: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    first = drive(WAITS)
    until(shows(tmp_path, 0, "it runs"))
    first.kill()
    first.wait()
    second = drive(WAITS)
    until(shows(tmp_path, 1, "job 7: attached, RUNNING"))
    Path("go").touch()
    assert second.wait(20) == 0
    assert OUT.read_text() == "made\n"
    assert slurm.submissions == 1


def test_two_watchers_make_one_job_and_both_end_well(
    slurm: FakeSlurm, drive: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    first = drive(WAITS)
    until(shows(tmp_path, 0, "it runs"))
    second = drive(WAITS)
    until(shows(tmp_path, 1, f"process {first.pid} on {os.uname().nodename} watches this job already"))
    Path("go").touch()
    assert (first.wait(20), second.wait(20)) == (0, 0)
    assert OUT.read_text() == "made\n"
    assert slurm.submissions == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_detaches_and_leaves_the_job(
    slurm: FakeSlurm, drive: Callable[[str], subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = drive(WAITS)
    until(shows(tmp_path, 0, "it runs"))
    process.send_signal(number)
    assert process.wait(20) == 1
    said = (tmp_path / "driver0").read_text()
    assert (
        "detached from job 7; `dvc repro` attaches again, `engine cancel pretrain@cp_s-simclr-none-0` cancels" in said
    )
    assert not (slurm / "cancelled").exists()
    Path("go").touch()
    until(lambda: attempts().latest().exit_code() == 0)  # type: ignore[union-attr]


def test_a_second_ctrl_c_cancels(slurm: FakeSlurm, drive: Any, tmp_path: Path) -> None:
    process = drive(WAITS, second_interrupt=30)
    until(shows(tmp_path, 0, "it runs"))
    process.send_signal(signal.SIGINT)
    until(shows(tmp_path, 0, "Ctrl-C again within 30 s cancels job 7"))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 1
    assert "error: cancelled job 7 (pretrain cp_s-simclr-none-0)" in (tmp_path / "driver0").read_text()
    assert (slurm / "cancelled").read_text() == "7\n"


def test_a_job_whose_folder_is_gone_is_not_guessed_at(slurm: FakeSlurm, drive: Any, tmp_path: Path) -> None:
    drive(WAITS)
    until(shows(tmp_path, 0, "it runs"))
    drive("").kill()
    elsewhere = attempts().folder.rename(tmp_path / "moved")
    with pytest.raises(EngineError, match=r"its folder under \.work/slurm is gone; `engine cancel pretrain@cp_s"):
        run()
    assert elsewhere.is_dir()


# engine cancel


def cancelled(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["cancel", *arguments])


@pytest.mark.parametrize("key", [(), ("cp_s-simclr-none-0",), ("pretrain@cp_s-simclr-none-0",)])
def test_cancel_finds_jobs_by_cell(slurm: FakeSlurm, drive: Any, tmp_path: Path, key: tuple[str, ...]) -> None:
    drive(WAITS)
    until(shows(tmp_path, 0, "it runs"))
    assert cancelled(*key).stdout == "cancelled job 7: pretrain@cp_s-simclr-none-0, RUNNING\n"
    assert (slurm / "cancelled").read_text() == "7\n"


def test_cancel_names_the_jobs_there_are_where_none_fits(slurm: FakeSlurm, drive: Any, tmp_path: Path) -> None:
    assert cancelled().stdout == "no job of this project is queued or runs\n"
    drive(WAITS)
    until(shows(tmp_path, 0, "it runs"))
    with pytest.raises(EngineError, match="no job of 'cp_c' is queued or runs; there are: pretrain@cp_s-simclr-none-0"):
        raise cancelled("cp_c").exception
    assert not (slurm / "cancelled").exists()
