"""What a stage says of where it is, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from engine.progress import progress_of


def test_lines_say_what_is_left_at_the_rate_since_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress_of("pretrain x") as progress:
        for done in (4, 5, 6, 10):  # a run that goes on after three steps, a step in 12 s
            now += 12
            progress(done, 10, f"loss {done}")
    assert capsys.readouterr().out.splitlines() == [
        "pretrain x: 4/10 after 12 s  loss 4",
        "pretrain x: 5/10 after 24 s, 60 s left at 0.0833/s  loss 5",
        "pretrain x: 6/10 after 36 s, 48 s left at 0.0833/s  loss 6",
        "pretrain x: 10/10 after 48 s  loss 10",
    ]


def test_other_processes_than_the_first_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with progress_of("pretrain x") as progress:
        progress(1, 1, "done")
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_bar_with_the_rate_and_the_note() -> None:
    code = (
        "import time\n"
        "from engine.progress import progress_of\n"
        "with progress_of('pretrain x') as progress:\n"
        "    for done in range(1, 5):\n"
        "        time.sleep(0.05)\n"
        "        progress(done, 4, f'loss {done}')\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment) as shown:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            said += part
    os.close(ours)
    assert shown.returncode == 0
    text = said.decode()
    assert "4/4" in text
    assert "/s  loss 4" in text
