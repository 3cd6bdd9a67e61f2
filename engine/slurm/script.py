"""What is submitted: sbatch's options, and the batch script, as functions of what is asked for.

Options go to sbatch as arguments, which no shell reads and which win over ``SBATCH_*`` variables; what the script
repeats is quoted. The one text that is code is the layout's ``prelude``.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from engine.launching import INSIDE, OUTPUT_ROOT, torchrun_command
from engine.protocols import Job
from engine.slurm.attempts import Attempt


@dataclass(frozen=True)
class Allocation:
    """What a job asks Slurm for. None leaves a choice to the cluster.

    Units: signal_before in seconds; time_limit and memory as Slurm writes them, memory a node.
    """

    nodes: int = 1
    devices_per_node: int = 1
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time_limit: str | None = None
    memory: str | None = None
    gres: str | None = None
    gpus_per_node: int | None = None
    cpus_per_device: int | None = None
    exclusive: bool = False
    requeue: bool = True
    max_requeues: int = 50
    signal_before: int = 120
    extra: tuple[str, ...] = ()
    prelude: tuple[str, ...] = ()

    def of_one_process(self) -> Allocation:
        """Return what a stage needs whose work cannot be shared."""
        gpus = None if self.gpus_per_node is None else 1
        return replace(self, nodes=1, devices_per_node=1, gpus_per_node=gpus)


def options(allocation: Allocation, *, name: str, attempt: Attempt, project: Path) -> tuple[str, ...]:
    """Return the arguments of sbatch that come before the script.

    ``singleton`` lets jobs of one name run one after another: a job submitted twice does no harm.
    """
    cpus = None if allocation.cpus_per_device is None else allocation.cpus_per_device * allocation.devices_per_node
    wishes = {
        "partition": allocation.partition,
        "account": allocation.account,
        "qos": allocation.qos,
        "constraint": allocation.constraint,
        "time": allocation.time_limit,
        "mem": allocation.memory,
        "gres": allocation.gres,
        "gpus-per-node": allocation.gpus_per_node,
        "cpus-per-task": cpus,
    }
    return (
        f"--job-name={name}",
        f"--chdir={project}",
        f"--output={str(attempt.log).replace('%', '%%')}",  # a single % would be a pattern
        "--open-mode=append",
        "--dependency=singleton",
        f"--nodes={allocation.nodes}",
        "--ntasks-per-node=1",
        *(f"--{option}={value}" for option, value in wishes.items() if value is not None),
        *(("--exclusive",) if allocation.exclusive else ()),
        *(("--requeue", f"--signal=B:USR2@{allocation.signal_before}") if allocation.requeue else ("--no-requeue",)),
        *allocation.extra,
    )


def batch_script(allocation: Allocation, job: Job, *, attempt: Attempt, project: Path) -> str:
    """Return the script of a job.

    SIGUSR2 comes before the time limit, and where a cluster is set up so, before preemption: the script requeues the
    job. Slurm then sends SIGTERM to all its processes: the stage writes a checkpoint, and the script leaves no exit
    code, since the job is not over.
    """
    threads = () if allocation.cpus_per_device is None else (f"export OMP_NUM_THREADS={allocation.cpus_per_device}",)
    parts = (
        "#!/bin/bash",
        "# Written and submitted by the engine; the folder's name says what for.",
        f"attempt={shlex.quote(str(attempt.folder))}",
        FINISH,
        f"cd {shlex.quote(str(project))} || exit 1",
        *((REQUEUES.format(most=allocation.max_requeues),) if allocation.requeue else ()),
        f"export {INSIDE}=1 {OUTPUT_ROOT}={shlex.quote(str(attempt.outs))}",
        *threads,
        *(("set -e  # the layout's prelude", *allocation.prelude, "set +e") if allocation.prelude else ()),
        *((RENDEZVOUS,) if allocation.nodes > 1 else ()),
        'echo "job $SLURM_JOB_ID runs on $SLURM_JOB_NODELIST, requeued ${SLURM_RESTART_COUNT:-0} times"',
        "ending= signalled=",
        "trap 'ending=1 signalled=1' TERM",
        *((REQUEUE,) if allocation.requeue else ()),
        f"{_launch(allocation, job)} &",
        WAIT,
    )
    return "\n".join(parts) + "\n"


def _launch(allocation: Allocation, job: Job) -> str:
    """Return the command line of the stage: itself, under torchrun, or under torchrun on every node.

    No node restarts its part of several on its own: the parts would not agree on it.
    """
    nodes, devices = allocation.nodes, allocation.devices_per_node
    if nodes * devices == 1:
        return shlex.join((sys.executable, *job.command))
    if nodes == 1:
        return shlex.join(torchrun_command(job.command, devices_per_node=devices))
    meeting = (f"--nnodes={nodes}", "--rdzv-backend=c10d")
    return f"{SRUN} {shlex.join(torchrun_command(job.command, devices_per_node=devices, rendezvous=meeting))}"


FINISH = """\
if [ -e "$attempt/exit" ]; then
  echo "requeued in the moment in which it ended: nothing is left to do"
  exit 0
fi
finish() {
  printf '%s\\n' "$1" > "$attempt/exit.partial" && mv "$attempt/exit.partial" "$attempt/exit"
  exit "$1"
}"""

REQUEUES = """\
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt {most} ]; then
  echo "requeued $SLURM_RESTART_COUNT times, and the layout's max_requeues is {most}: giving up" >&2
  finish 1
fi"""

REQUEUE = """\
trap 'signalled=1; echo "SIGUSR2: the job will be requeued"; scontrol requeue "$SLURM_JOB_ID"' USR2"""

# The first node's address as Slurm knows it; a guess such as localhost would make every node a world of its own.
# srun takes no --cpus-per-task from sbatch (since Slurm 22.05).
RENDEZVOUS = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$head" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
if [ -z "$address" ]; then
  echo "scontrol does not say the address of the first node, '$head': the nodes cannot meet" >&2
  finish 1
fi
port=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 10000))
export PET_RDZV_ID="$SLURM_JOB_ID" PET_RDZV_ENDPOINT="$address:$port"  # torchrun's options"""

SRUN = (
    'srun --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} '
    "--kill-on-bad-exit=1 --label"
)

# A trap ends `wait` early, with a code that is not the child's.
WAIT = """\
child=$!
while :; do
  signalled=
  wait "$child"
  code=$?
  [ -n "$signalled" ] || break
done
trap '' USR2
[ -z "$ending" ] || exit "$code"
finish $code"""
