"""A run that was stopped goes on to the bit: loops, finished parts, every training and every search."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import checkpoints
from engine.checkpoints import Checkpoints
from engine.errors import EngineError
from engine.journal import Journal, Stopped
from engine.randomness import stream
from tests.cases import ATTACKS, DEFENSES, VICTIMS, cases


class Killed(Exception):
    """The process died."""


class Mortal(Checkpoints):
    """Checkpoints of a process that dies once it has written a number of them."""

    lives = 10**9

    def write(self, content: dict[str, Any]) -> None:
        super().write(content)
        Mortal.lives -= 1
        if Mortal.lives == 0:
            raise Killed


def run_in(folder: Path, work: Callable[[Journal], Any], *, dies_after: int = 10**9, about: Any = None) -> Any:
    """Run with a checkpoint at every step, and die once so many were written."""
    Mortal.lives = dies_after
    journal = Journal(Mortal(folder, about or {"spec": {"lr": 1}}), interval=0)
    with journal.open():
        return work(journal)


def killed_and_resumed(folder: Path, work: Callable[[Journal], Any], after: int) -> Any:
    """Run, die, and run again; return what that made, or None where the first one lived long enough."""
    try:
        run_in(folder, work, dies_after=after)
    except Killed:
        return run_in(folder, work)
    return None


class Walk:
    """Something that moves with random steps."""

    def __init__(self) -> None:
        self.place = torch.zeros(())
        self.draws = stream(0, "walk")

    def step(self) -> None:
        self.place = self.place * 1.1 + torch.randn((), generator=self.draws)

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "draws": self.draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]
        self.draws.set_state(state["draws"])


def wander(journal: Journal) -> list[float]:
    """Walk in nested loops, with parts that are finished once, and a walker that lives for one round."""
    walk, seen = Walk(), []
    journal.keep("walk", walk)
    start = journal.once("start", lambda: torch.rand(3, generator=walk.draws))
    for round_ in journal.loop("round", 3):
        other = Walk()
        journal.keep("other", other)
        order = journal.once("order", lambda: torch.randperm(3, generator=walk.draws))
        for place in journal.loop("step", 3):
            walk.step()
            for _ in journal.loop("inner", int(order[place]) + 1):
                other.step()
        walk.place = walk.place + start.sum() + other.place * (round_ + 1)
        seen.append(journal.once("finish", lambda: tail(journal, walk)))
    return [walk.place.item()]


def tail(journal: Journal, walk: Walk) -> float:
    for _ in journal.loop("tail", 2):
        walk.step()
    return walk.place.item()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=4))
def test_a_walk_that_dies_anywhere_ends_where_it_would_have(deaths: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for after in deaths:
            try:
                run_in(Path(folder) / "walk", wander, dies_after=after)
            except Killed:
                continue
        assert run_in(Path(folder) / "walk", wander) == wander(Journal())
        assert not (Path(folder) / "walk").exists()


def equal(found: Any, expected: Any) -> bool:
    """Say whether two results are the same to the bit."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)
    return torch.equal(found, expected) if isinstance(expected, Tensor) else bool(found == expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VICTIMS, *DEFENSES, *ATTACKS])
def test_what_dies_at_any_step_makes_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    expected = case(Journal())
    draws, resumed = stream(0, "deaths", name.replace(" ", "_")), 0
    for trial in range(6):
        after = int(torch.randint(1, 25, (), generator=draws))
        made = killed_and_resumed(tmp_path / str(trial), case, after)
        if made is not None:
            resumed += 1
            assert equal(made, expected), f"died after {after} steps"
    assert resumed >= 2


def test_a_checkpoint_of_another_spec_is_not_used_and_the_difference_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        run_in(tmp_path / "walk", wander, dies_after=5)
    assert run_in(tmp_path / "walk", wander, about={"spec": {"lr": 2}}) == wander(Journal())
    assert "made with another spec.lr (1, now 2); starting over" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        run_in(tmp_path / "walk", wander, dies_after=9)
    written = sorted((tmp_path / "walk").glob("*.pt"))
    assert [file.name for file in written] == ["000008.pt", "000009.pt"]  # the last two, and no more
    content = bytearray(written[-1].read_bytes())
    content[len(content) // 2] ^= 1
    written[-1].write_bytes(content)
    assert run_in(tmp_path / "walk", wander) == wander(Journal())
    said = capsys.readouterr().out
    assert "000009.pt is not used: it is damaged" in said
    assert "going on from" in said
    assert "000008.pt" in said


def test_a_checkpoint_of_other_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_in(tmp_path / "walk", wander, dies_after=1)

    def other(journal: Journal) -> None:
        journal.keep("another", Walk())
        wander(journal)

    with pytest.raises(EngineError, match=r"was written by other code: another do not fit; remove that folder"):
        run_in(tmp_path / "walk", other)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_next_run_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    steps: list[int] = []

    def work(journal: Journal) -> list[int]:
        for step in journal.loop("step", 6):
            steps.append(step)
            if len(steps) == 3:
                os.kill(os.getpid(), number)
        return steps

    checkpoints_ = Checkpoints(tmp_path / "job", {})
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped as asked, and saved in") as stopped, (j := Journal(checkpoints_)).open():
        work(j)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    with (journal := Journal(checkpoints_)).open():
        assert work(journal) == [0, 1, 2, 3, 4, 5]


def test_sigusr1_saves_and_goes_on(tmp_path: Path) -> None:
    with (journal := Journal(Checkpoints(tmp_path / "job", {}))).open():
        for step in journal.loop("step", 4):
            assert len(list((tmp_path / "job").glob("*.pt"))) == (step > 1)
            if step == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
    assert not (tmp_path / "job").exists()


def test_two_parts_of_one_name_are_refused_where_they_are_saved_and_run_twice_where_not(tmp_path: Path) -> None:
    def twice(journal: Journal) -> list[int]:
        return [step for _ in range(2) for step in journal.loop("step", 2)] + [
            journal.once("value", lambda value=value: value) for value in (5, 6)
        ]

    assert twice(Journal()) == [0, 1, 0, 1, 5, 6]
    with pytest.raises(ValueError, match="two parts 'step'; give each a name of its own"):
        run_in(tmp_path / "job", twice)


def test_checkpoints_are_written_at_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    written = []
    monkeypatch.setattr(Checkpoints, "write", lambda self, content: written.append(now))
    with (journal := Journal(Checkpoints(tmp_path / "job", {}), interval=10)).open():
        for _ in journal.loop("step", 9):
            now += 4
    assert written == [12.0, 24.0, 36.0]


def test_two_runs_of_one_job_are_told_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.3)
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with Checkpoints(tmp_path / "job", {}).locked():
            holding.set()
            release.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    assert holding.wait(20)
    try:
        with pytest.raises(EngineError, match=rf"process {os.getpid()} is doing the same work .*stop it with `kill"):
            run_in(tmp_path / "job", wander)
    finally:
        release.set()
        other.join()


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert run_in(tmp_path / "walk", wander) == wander(Journal())
    assert "no checkpoint could be written" in capsys.readouterr().out


def test_a_checkpoint_holds_nothing_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed):
        run_in(tmp_path / "walk", wander, dies_after=1)
    (described,) = (tmp_path / "walk").glob("*.json")

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    file = described.with_suffix(".pt")
    torch.save({"record": Trap()}, file)
    content = json.loads(described.read_text())
    content["sha256"] = checkpoints.sha256(file)
    described.write_text(json.dumps(content))
    assert run_in(tmp_path / "walk", wander) == wander(Journal())
    assert "000001.pt is not used: it holds more than tensors and plain values" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()
