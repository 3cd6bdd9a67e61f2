"""Compiled code: kept, called on several threads, and replaced by torch where it cannot be made."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import completion, native
from engine.randomness import stream

COMPILER = native.compiler_command()
pytestmark = pytest.mark.skipif(not COMPILER, reason="there is no C compiler here")


def some_results() -> Tensor:
    return completion.truncate(torch.randn(5, 6, 9, generator=stream(0, "matrices")), keep=3)


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """Return results of the code that is loaded."""
    return some_results()


def test_without_a_compiler_results_are_the_same_and_it_is_said_once(
    expected: Tensor, uncached: pytest.MonkeyPatch
) -> None:
    uncached.setattr(shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match="no C compiler: matrix completions on the CPU run on torch alone") as said:
        results = some_results()
    assert len(said) == 1
    torch.testing.assert_close(results, expected, atol=1e-6, rtol=0)
    some_results()  # a second warning would be an error


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("false", "failed"),
        (f"{shlex.join(COMPILER)} --no-such-flag", "no-such-flag"),
        ("/no/such/compiler", "/no/such/compiler"),
    ],
)
def test_a_compiler_that_fails_is_reported(
    expected: Tensor, uncached: pytest.MonkeyPatch, compiler: str, words: str
) -> None:
    uncached.setenv("CC", compiler)
    with pytest.warns(RuntimeWarning, match=words) as said:
        results = some_results()
    assert len(said) == 1
    assert "torch alone" in str(said[0].message)
    torch.testing.assert_close(results, expected, atol=1e-6, rtol=0)


def test_a_cache_that_cannot_be_written_is_reported(uncached: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    uncached.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="torch alone"):
        assert native.library(completion.SOURCE, "matrix completions") is None


def test_compiled_code_is_kept_and_a_compiler_may_have_a_launcher(
    expected: Tensor, uncached: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uncached.setenv("CC", f"env LANG=C {shlex.join(COMPILER)}")
    assert torch.equal(some_results(), expected)
    (kept,) = (file for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert kept.name.startswith("completion-")
    assert kept.suffix == ".so"
    native.library.cache_clear()
    uncached.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert torch.equal(some_results(), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_threads_share_the_work_without_a_rest(threads: int, count: int) -> None:
    done: list[int] = []

    def work(begin: int, end: int) -> int:
        done.extend(range(begin, end))
        return 0

    try:
        torch.set_num_threads(threads)
        native.in_threads(work, count)
    finally:
        torch.set_num_threads(1)
    assert sorted(done) == list(range(count))


def test_work_that_fails_is_an_error() -> None:
    with pytest.raises(MemoryError, match="7 images"):
        native.in_threads(lambda begin, end: -1, 7)
