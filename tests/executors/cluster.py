"""A real Slurm on this machine: one controller and two nodes, each a daemon of its own, all on the loopback.

Needs root and Debian's packages slurm-wlm and munge; nothing under /etc is read or written.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun", "setpriv")
SECONDS_TO_START = 120

# cred_expire is how long a requeued job waits: 120 s by default, and for less than 5. NoInAddrAny: the loopback alone.
CONFIGURATION = """
ClusterName=engine
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={state}/run/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SrunPortRange={first_srun_port}-{last_srun_port}
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/spool.%n
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd.%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
KillWait=5
InactiveLimit=0
MinJobAge=300
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""
NODE = "NodeName={0} NodeHostname={0} NodeAddr=127.0.0.1 Port={1} CPUs=2 CoresPerSocket=2 RealMemory=2000 State=UNKNOWN"
PARTITIONS = """
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Return why no cluster can be started here; None where one can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"a Slurm cluster needs {', '.join(absent)} (Debian: slurm-wlm and munge)"
    return "a Slurm cluster of its own needs root" if os.geteuid() != 0 else None


@contextmanager
def cluster() -> Iterator[Path]:
    """Yield the slurm.conf of a cluster that runs until the block ends: for SLURM_CONF."""
    # Short, since paths of sockets are; searchable by everyone, since munged insists.
    state = Path(tempfile.mkdtemp(prefix="slurm-"))
    state.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        configuration = _configure(state)
        stack.enter_context(_daemon(state, "munged", *_munge_options(state)))
        _wait((state / "run/munge.socket").is_socket, state, "munged opens no socket")
        stack.enter_context(_daemon(state, "slurmctld", "-D", "-f", str(configuration)))
        for node in NODES:
            stack.enter_context(_daemon(state, "slurmd", "-D", "-N", node, "-f", str(configuration)))
        _wait(lambda: _idle(configuration) == set(NODES), state, "the nodes do not become idle")
        yield configuration


def _configure(state: Path) -> Path:
    for folder in ("munge", "ctld", "log", "run", *(f"spool.{node}" for node in NODES)):
        (state / folder).mkdir()
    (state / "munge").chmod(0o700)
    key = state / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    port = _free_ports(1 + len(NODES) + 64)
    first = port + 1 + len(NODES)
    head = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        port=port,
        state=state,
        first_srun_port=first,
        last_srun_port=first + 63,
    )
    nodes = "\n".join(NODE.format(node, port + 1 + index) for index, node in enumerate(NODES))
    file = state / "slurm.conf"
    file.write_text(head + nodes + PARTITIONS)
    return file


def _free_ports(count: int) -> int:
    """Return the first of some neighbouring ports that nobody listens on."""
    for first in range(21000, 60000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError(f"no {count} neighbouring ports are free")


def _munge_options(state: Path) -> list[str]:
    files = {"key-file": "munge/key", "socket": "run/munge.socket", "pid-file": "munge/pid"}
    files |= {"log-file": "munge/log", "seed-file": "munge/seed"}
    return ["--foreground", "--num-threads=2", *(f"--{option}={state / file}" for option, file in files.items())]


@contextmanager
def _daemon(state: Path, *command: str) -> Iterator[None]:
    with (state / "log" / f"{command[0]}.out").open("a") as output:
        # setpriv: a killed test leaves no daemon behind.
        ended_with_this = ("setpriv", "--pdeathsig", "TERM", *command)
        process = subprocess.Popen(ended_with_this, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _idle(configuration: Path) -> set[str]:
    command = ("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return set(done.stdout.split())


def _wait(condition, state: Path, complaint: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{file.name}: {file.read_text()[-1000:]}" for file in (state / "log").iterdir())
            raise RuntimeError(f"{complaint} within {SECONDS_TO_START} s\n{logs}")
        time.sleep(0.05)
