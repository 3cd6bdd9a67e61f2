"""Artifacts are written whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from engine.artifacts.files import ArtifactError, atomic_directory, read_json, write_csv, write_json


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_appears_whole() -> None:
    target = Path("artifacts/a/poison")
    with atomic_directory(target) as partial:
        (partial / "one").write_text("1")
        assert not target.exists()
    assert (target / "one").read_text() == "1"


def test_a_failed_write_leaves_what_was_there() -> None:
    target = Path("artifacts/poison")
    with atomic_directory(target) as partial:
        (partial / "old").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_directory(target) as partial:
        (partial / "new").write_text("new")
        raise RuntimeError("stop")
    assert [file.name for file in target.iterdir()] == ["old"]
    assert list(Path(".work/partial").iterdir()) == []


def test_a_new_folder_replaces_the_old_one_wholly() -> None:
    target = Path("artifacts/poison")
    for name in ("old", "new"):
        with atomic_directory(target) as partial:
            (partial / name).write_text(name)
    assert [file.name for file in target.iterdir()] == ["new"]


def test_a_failed_file_leaves_what_was_there() -> None:
    target = Path("a.json")
    write_json(target, {"x": 1})
    with pytest.raises(ValueError, match="float"):
        write_json(target, {"x": float("nan")})
    assert read_json(target) == {"x": 1}


WRITER = """
    import sys
    from pathlib import Path
    from engine.artifacts.files import atomic_directory

    with atomic_directory(Path("artifacts/poison")) as partial:
        for number in range(100):
            (partial / f"{number}").write_bytes(b"x" * 1000)
            print(number, flush=True)
        print("end", flush=True)
"""


@pytest.mark.parametrize("lines", [1, 40, 101])
def test_a_killed_writer_leaves_nothing_or_everything(lines: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(lines):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    target = Path("artifacts/poison")
    assert not target.exists() or len(list(target.iterdir())) == 100
    assert [path.name for path in Path("artifacts").iterdir()] in ([], ["poison"])


@pytest.mark.parametrize(
    ("content", "words"), [(None, "does not exist"), ("{", "not JSON"), ("[1]", "expected a JSON object")]
)
def test_an_unreadable_result_says_what_to_do(content: str | None, words: str) -> None:
    if content is not None:
        Path("r.json").write_text(content)
    with pytest.raises(ArtifactError, match=words):
        read_json(Path("r.json"))


def test_results_have_the_same_bytes_every_time() -> None:
    write_json(Path("a.json"), {"b": 1, "a": 2.5})
    write_json(Path("b.json"), {"a": 2.5, "b": 1})
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
    write_csv(Path("c.csv"), [{"epoch": 1, "loss": 0.5}])
    assert Path("c.csv").read_text() == "epoch,loss\n1,0.5\n"
