"""Stand-ins for Slurm's commands: sbatch runs the script at once, and files say where the others fail.

The real ones are tested in test_slurm_cluster.py; these reach what a healthy cluster does not do on demand.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.protocols import Job
from engine.slurm.watch import Pace

JOB = 7

SBATCH = """
printf '%s\\n' "$@" > "$FAKE/sbatch.arguments"
echo submitted >> "$FAKE/submissions"
[ -e "$FAKE/sbatch.refuses" ] && { cat "$FAKE/sbatch.refuses" >&2; exit 1; }
for last; do case $last in --output=*) log=${last#--output=};; --job-name=*) name=${last#--job-name=};; esac; done
echo "$name" > "$FAKE/name"
set -m  # the job is a group of processes, which can be killed as one
SLURM_JOB_ID=7 SLURM_JOB_NODELIST=here SLURM_NNODES=1 bash "$last" >> "$log" 2>&1 < /dev/null &
echo $! | tee -a "$FAKE/groups" > "$FAKE/pid"
echo "7;cluster"
"""

# A job is listed while its script runs; once it has ended, in the state that the test has chosen.
SQUEUE = """
echo "$@" >> "$FAKE/questions"
if [ -s "$FAKE/squeue.fails" ]; then
  sed -i 1d "$FAKE/squeue.fails"
  echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
  exit 1
fi
runs() { [ -e "$FAKE/pid" ] && kill -0 "$(cat "$FAKE/pid")" 2>/dev/null; }
case "$*" in
  *--me*) if runs; then echo "7|RUNNING|None|$(cat "$FAKE/name")"; fi;;
  *) if runs; then echo "7|RUNNING|None|$(cat "$FAKE/name")"
     elif [ -e "$FAKE/ends" ]; then echo "7|$(cat "$FAKE/ends")|None|$(cat "$FAKE/name")"
     else echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi;;
esac
"""

SCANCEL = """
echo "$@" >> "$FAKE/cancelled"
[ -e "$FAKE/pid" ] && kill -KILL -- "-$(cat "$FAKE/pid")"
exit 0
"""

SCONTROL = """
echo "$@" >> "$FAKE/scontrol.arguments"
"""


OUT = Path("artifacts/d/encoder/cp_s-simclr-none-0.safetensors")
QUICK = Pace(look=0.02, ask_first=0.02, ask_at_most=0.1, patience=30, appear=0.3, second_interrupt=0.5)
MAKES_OUT = f'mkdir -p "$ENGINE_OUTPUT_ROOT/artifacts/d/encoder"; echo made > "$ENGINE_OUTPUT_ROOT/{OUT}"'


def wait_for(file: str | Path) -> str:
    """Shell that waits for a file, and gives up after half a minute or so: no job outlives its test for long."""
    return f"left=1500; until [ -e '{file}' ]; do [ $((left -= 1)) -gt 0 ] || exit 9; sleep 0.02; done"


def _never(machine: object) -> None:
    raise AssertionError("a job was done in the submitting process")


def job(shell: str = MAKES_OUT, **changes: Any) -> Job:
    """A job whose command is a line of shell: the interpreter's place is taken by sh, see ``slurm``."""
    made = Job(
        stage="pretrain",
        key="cp_s-simclr-none-0",
        dataset="d",
        command=("-c", shell),
        outs=(OUT,),
        precision="fp32",
        about={"seed": 0},
        work=_never,
    )
    return replace(made, **changes)


class FakeSlurm:
    """The folder through which a test and the stand-ins talk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name, body in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
            file = self.bin / name
            file.write_text(f"#!/bin/bash\n{body}")
            file.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to find them."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE": str(self.folder)}

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def end_all(self) -> None:
        """Kill every process of every job that is left."""
        for group in (self / "groups").read_text().split() if (self / "groups").is_file() else ():
            with suppress(ProcessLookupError):
                os.killpg(int(group), signal.SIGKILL)

    def refuse(self, message: str) -> None:
        """Let sbatch fail."""
        (self / "sbatch.refuses").write_text(message + "\n")

    def fail(self, times: int) -> None:
        """Let squeue fail some times from now on."""
        (self / "squeue.fails").write_text("x\n" * times)

    def end_as(self, state: str) -> None:
        """Say in which state the job is once its script is over; without it, Slurm has forgotten it by then."""
        (self / "ends").write_text(state)

    @property
    def submissions(self) -> int:
        """How often sbatch was called."""
        return _lines(self / "submissions")

    @property
    def questions(self) -> int:
        """How often squeue was called."""
        return _lines(self / "questions")


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.is_file() else 0
