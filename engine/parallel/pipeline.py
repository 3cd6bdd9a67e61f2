"""What DVC knows of the pipeline: its graph, what is out of date, what dvc.lock records.

DVC's Python interface is asked in processes of its own, because it keeps databases open that a fork must not share,
and asked once for everything, because most of a call to DVC is reading dvc.yaml and dvc.lock.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.lineage import end_with_parent
from engine.parallel.lockfiles import LOCK, Hashes, recorded_outs, write_lock_whole

if TYPE_CHECKING:
    from dvc.repo import Repo

SECONDS_BETWEEN_TRIES = (1, 2, 4, 8, 16, 30, 30, 30)
"""How long to wait before another try where another DVC process is in the way."""


@dataclass(frozen=True)
class Plan:
    """The stages that a `dvc repro` of the same targets comes to.

    ``order`` is the order of that serial run. ``needs`` holds each stage's direct needs, ``stale`` why a stage is out
    of date by itself, ``recorded`` the outputs of each stage in dvc.lock.
    """

    order: tuple[str, ...]
    needs: dict[str, tuple[str, ...]]
    stale: dict[str, str]
    recorded: dict[str, Hashes]

    def users(self) -> dict[str, list[str]]:
        """Return the stages that need each stage directly."""
        users: dict[str, list[str]] = {stage: [] for stage in self.order}
        for stage in self.order:
            for needed in self.needs[stage]:
                users[needed].append(stage)
        return users


def read_plan(targets: tuple[str, ...]) -> Plan:
    """Ask DVC what a run of some stages, or of all of dvc.yaml, comes to.

    Raises:
        EngineError: DVC cannot read the pipeline, or knows no such stage; DVC has printed where in which file.
    """
    plan: Plan = _ask_dvc(_plan, targets)
    return plan


def order_lock(plan: Plan) -> None:
    """Put the stages that are new in dvc.lock into the order in which a serial run adds them."""
    _ask_dvc(_order_lock, plan)


def _ask_dvc(question: Callable[..., Any], *arguments: Any) -> Any:
    fork = multiprocessing.get_context("fork")
    answers, answer = fork.Pipe(duplex=False)
    process = fork.Process(target=_answer, args=(answer, question, arguments))
    process.start()
    answer.close()
    try:
        found, advice = answers.recv()
    except EOFError:
        process.join()
        raise EngineError(
            f"DVC ended with exit code {process.exitcode} while it read the pipeline; if it printed a traceback above, "
            "`python -m engine validate` may tell what is wrong"
        ) from None
    process.join()
    if advice is not None:
        raise EngineError(advice)
    return found


def _answer(answer: Connection, question: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, decides
    end_with_parent(signal.SIGKILL)
    sys.argv = ["dvc", "status"]  # what other DVC processes are told about who is in their way
    from dvc.exceptions import DvcException

    try:
        answer.send((question(*arguments), None))
    except DvcException as error:
        if hasattr(error, "__pretty_exc__"):
            error.__pretty_exc__()  # prints the place in the file, as the command line of DVC does
        answer.send((None, _complaint(error)))


def _complaint(error: BaseException) -> str:
    if str(LOCK) in str(error):
        return (
            f"{error}; `git checkout {LOCK}` brings the committed file back (during a merge: "
            f"`git checkout --ours {LOCK}`), and what was computed since comes back from DVC's cache"
        )
    messages = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__
    return f"DVC cannot tell what to run: {': '.join(messages)}"


def _plan(targets: tuple[str, ...]) -> Plan:
    from dvc.lock import LockError

    _refuse_empty_lock()
    for seconds in SECONDS_BETWEEN_TRIES:
        try:
            return _read(targets)
        except LockError as error:
            who = " ".join(str(error).partition("\n\n")[0].split())
            print(f"waiting for another DVC process: {who}", flush=True)
            time.sleep(seconds)
    return _read(targets)


def _read(targets: tuple[str, ...]) -> Plan:
    from dvc.repo import Repo, lock_repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    with Repo(_wait_for_lock=True) as repo, lock_repo(repo):
        graph = get_active_graph(repo.index.graph)
        stages = plan_repro(graph, collect_stages(repo, targets or ("dvc.yaml",)))
        places = {stage.addressing: place for place, stage in enumerate(stages)}
        needs = {
            stage.addressing: tuple(
                sorted((need.addressing for need in graph.successors(stage)), key=places.__getitem__)
            )
            for stage in stages
        }
        found = {stage.addressing: stage.status().get(stage.addressing, ()) for stage in stages}
    stale = {name: _reason(entries) for name, entries in found.items() if entries}
    recorded = recorded_outs()
    return Plan(tuple(places), needs, stale, {name: recorded[name] for name in places if name in recorded})


def _refuse_empty_lock() -> None:
    """Raise where dvc.lock is empty: DVC takes that for a project without results and forgets all of them."""
    from dvc.exceptions import DvcException

    if LOCK.is_file() and not LOCK.read_text().strip():
        raise DvcException(f"'{LOCK}' is empty")


def _reason(entries: Iterable[Any]) -> str:
    """Say in a few words why a stage is out of date, given DVC's status of it."""
    reasons = []
    for entry in entries:
        if isinstance(entry, str):
            reasons.append(entry)
            continue
        for what, changes in entry.items():
            paths = list(changes)
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            reasons.append(f"{what}: {paths[0]}{more}")
    return ", ".join(reasons)


def _order_lock(plan: Plan) -> None:
    from dvc.repo import Repo, lock_repo
    from dvc.utils.serialize import modify_yaml

    known = {name: place for place, name in enumerate(plan.order) if name not in plan.recorded}
    write_lock_whole()
    with Repo(_wait_for_lock=True) as repo, lock_repo(repo):
        names = list(recorded_outs())
        new = [name for name in names if name in known]
        ordered = sorted(new, key=known.__getitem__)
        if new == ordered:
            return
        with modify_yaml(LOCK) as content:
            for name in ordered:
                content["stages"].move_to_end(name)
        _stage_lock(repo)


def _stage_lock(repo: Repo) -> None:
    """Have git's index hold the new dvc.lock where the project is set up for that (``core.autostage``)."""
    with repo.scm_context(quiet=True) as context:
        context.track_file(str(LOCK))
