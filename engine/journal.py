"""Where a run is and what it has made so far, so that it goes on after it was stopped, to the bit.

A procedure names its loops, its finished parts and what moves in them:

    journal.keep("network", network)
    for epoch in journal.loop("epoch", epochs):
        order = journal.once("order", shuffle)
        for step in journal.loop("step", steps): ...

After a stop the same code runs again: finished parts return what they returned, loops begin where they were, and
when the innermost one is reached everything that is kept is as it was. What runs before that must be harmless to run
twice: it may build and move what is kept, and nothing else.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine.checkpoints import Checkpoints
from engine.errors import EngineError
from engine.processes import greatest

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
GO_ON, SAVE, STOP = 0, 1, 2
STOPPING = (signal.SIGTERM, signal.SIGINT)


class Stopped(EngineError):
    """A run was asked to stop, and can go on from a checkpoint."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Stateful(Protocol):
    """What a checkpoint can hold: networks, optimizers, and what offers the same."""

    def state_dict(self) -> Any:
        """Return the state: tensors and plain values."""

    def load_state_dict(self, state: Any) -> Any:
        """Take up a state."""


@dataclass
class Drawing:
    """A stream of random numbers, as something with a state."""

    generator: torch.Generator

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where the stream was."""
        self.generator.set_state(state["generator"])


@dataclass
class Journal:
    """See the module. Without ``checkpoints`` it only counts.

    Units: interval in seconds.
    """

    checkpoints: Checkpoints | None = None
    interval: float = 300.0
    _parts: dict[str, Stateful] = field(default_factory=dict)
    _record: dict[str, Any] = field(default_factory=dict)
    _scope: list[str] = field(default_factory=list)
    _finished: set[str] = field(default_factory=set)
    _pending: dict[str, Any] | None = None
    _asked: int = GO_ON
    _signal: int = 0
    _saved_at: float = 0.0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Take up the last checkpoint, save one at a signal, and forget all once the block has ended well.

        SIGUSR1 only saves; SIGTERM and SIGINT stop the run at the next step, the second of them at once.

        Raises:
            Stopped: the run was asked to stop; it was saved.
        """
        if self.checkpoints is None:
            yield
            return
        with self.checkpoints.locked(), self._listening():
            self._pending = self.checkpoints.read()
            self._record = dict(self._pending["record"]) if self._pending else {}
            self._saved_at = time.monotonic()
            yield
            self.checkpoints.clear()

    def keep(self, name: str, part: Stateful | torch.Generator) -> None:
        """Save a part with every checkpoint from now on, until the enclosing step or ``once`` ends."""
        import torch

        self._parts[self._path(name)] = Drawing(part) if isinstance(part, torch.Generator) else part

    def once(self, name: str, make: Callable[[], Value]) -> Value:
        """Return what ``make`` returns, tensors or plain values; after a stop, what it returned then."""
        path = self._path(name)
        self._begin(path)
        if path not in self._record:
            with self._within(name):
                value = make()
            self._record[path] = value
        self._finished.add(path)
        found: Value = self._record[path]
        return found

    def loop(self, name: str, count: int) -> Loop:
        """Return a range that begins where it was, and at whose every step a checkpoint may be written."""
        path = self._path(name)
        self._begin(path)
        return Loop(self, path, self._record.get(path, 0), count)

    @property
    def place(self) -> str:
        """Return where the run is, counted from 1, for messages: ``round 3, model, step 5``."""
        return ", ".join(re.sub(r"=(\d+)$", lambda found: f" {int(found[1]) + 1}", part) for part in self._scope)

    def _begin(self, path: str) -> None:
        """Forget that a part was finished by this process, where nothing is saved: it is asked for once more.

        Raises:
            ValueError: what is saved could not tell the two apart.
        """
        if path not in self._finished:
            return
        if self.checkpoints is not None:
            raise ValueError(f"the journal has two parts {path!r}; give each a name of its own")
        self._finished.discard(path)
        self._record.pop(path, None)

    def _path(self, name: str) -> str:
        return "/".join([*self._scope, name])

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        """Name what is kept and finished inside a part of the run; forget it at the end."""
        self._scope.append(name)
        scope = "/".join([*self._scope, ""])
        try:
            yield
        finally:
            self._scope.pop()
            self._parts = {path: part for path, part in self._parts.items() if not path.startswith(scope)}
            self._record = {path: value for path, value in self._record.items() if not path.startswith(scope)}
            self._finished = {path for path in self._finished if not path.startswith(scope)}

    def _arrive(self, path: str) -> None:
        """Put everything back in its state, if this is the loop in which it was saved."""
        if self._pending is None or self._pending["active"] != path:
            return
        state, self._pending = self._pending["parts"], None
        if state.keys() != self._parts.keys():
            differing = ", ".join(sorted(state.keys() ^ self._parts.keys()))
            raise EngineError(
                f"the checkpoint in {self._folder} was written by other code: {differing} do not fit; remove that "
                "folder to start over"
            )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._saved_at = time.monotonic()

    def _pass(self, path: str) -> None:
        """Save if it is time or if somebody asks for it, and stop if they ask for that."""
        if self.checkpoints is None:
            return
        is_due = time.monotonic() - self._saved_at >= self.interval
        asked = greatest(max(self._asked, SAVE if is_due else GO_ON))
        if asked == GO_ON:
            return
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        self.checkpoints.write({"active": path, "record": self._record, "parts": parts})
        self._asked, self._saved_at = GO_ON, time.monotonic()
        if asked == STOP:
            raise Stopped(f"stopped as asked, and saved in {self._folder}; the same command goes on", self._signal)

    @property
    def _folder(self) -> str:
        return str(self.checkpoints.folder) if self.checkpoints else ""

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may listen
            return
        before = {number: signal.signal(number, self._hear) for number in (*STOPPING, signal.SIGUSR1)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._asked = max(self._asked, SAVE)
            return
        self._asked, self._signal = STOP, number
        for each in STOPPING:
            signal.signal(each, signal.SIG_DFL)


@dataclass
class Loop:
    """The steps of a loop that are still to do, from ``start``."""

    journal: Journal
    path: str
    start: int
    count: int

    def __iter__(self) -> Iterator[int]:
        journal = self.journal
        journal._arrive(self.path)
        for index in range(self.start, self.count):
            with journal._within(f"{self.path.rpartition('/')[2]}={index}"):
                yield index
            journal._record[self.path] = index + 1
            journal._pass(self.path)
        journal._finished.add(self.path)
