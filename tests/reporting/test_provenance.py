"""The revision that a report names is the one that ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from engine.reporting.provenance import device, revision


def git(*command: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_outside_a_repository_and_before_a_commit_nothing_is_claimed(repository: Path) -> None:
    assert revision() == {"commit": None, "dirty": None}
    git("init")
    assert revision() == {"commit": None, "dirty": None}


def test_a_changed_source_is_dirty_and_a_runs_own_results_are_not(repository: Path) -> None:
    git("init")
    source = repository / "spec.yaml"
    source.write_text("a: 1\n")
    (repository / "dvc.lock").write_text("one\n")
    git("add", "--all")
    git("commit", "--message", "start")
    commit = git("rev-parse", "HEAD")
    assert revision() == {"commit": commit, "dirty": False}
    (repository / "dvc.lock").write_text("two\n")
    (repository / "reports").mkdir()
    (repository / "reports" / "index.html").write_text("new\n")
    assert revision() == {"commit": commit, "dirty": False}
    source.write_text("a: 2\n")
    assert revision() == {"commit": commit, "dirty": True}


def test_the_machine_has_a_processor() -> None:
    assert "core" in device()
