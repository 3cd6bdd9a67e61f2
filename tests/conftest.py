"""Fixtures that several test folders share."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
CIFAR_SUBSET = PROJECT.parent / "shared" / "data" / "cifar10-subset.tar"


def pytest_configure() -> None:
    """Let what tests start hear Ctrl-C: a job in the background of a shell ignores it, and would hand that on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keep torch to one thread: test workers run side by side."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's specs and pipeline, as the working folder."""
    shutil.copytree(PROJECT / "specs", tmp_path / "specs")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def cifar_subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of real CIFAR-10 images, where it was put beside the project."""
    if not CIFAR_SUBSET.is_file():
        pytest.skip("the CIFAR-10 subset ../shared/data/cifar10-subset.tar is not here")
    folder = tmp_path_factory.mktemp("cifar")
    with tarfile.open(CIFAR_SUBSET) as archive:
        archive.extractall(folder, filter="data")
    return folder / "cifar10"


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Forget the loaded C code, and keep what is compiled in a folder of its own."""
    from engine import native

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield monkeypatch
    native.library.cache_clear()


def _complaints(*command: str | Path) -> str:
    """Return what a command says when it fails, its status first; nothing when it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{done.returncode}: {done.stderr}" if done.returncode else ""


@pytest.fixture
def examine(tmp_path: Path) -> Callable[[Path, str], list[str]]:
    """Compile a C source with every warning an error, then run a program that includes it under sanitizers.

    What the compilers and the program complain of is returned, in this order: strict, sanitized, run.
    """
    from engine import native

    compiler = native.compiler_command()
    sanitize = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    main, program = tmp_path / "main.c", tmp_path / "main"

    def examined(source: Path, exercise: str) -> list[str]:
        made = tmp_path / "made.so"
        strict = _complaints(*compiler, *native.FLAGS, "-Wall", "-Wextra", "-Werror", source, "-o", made, "-lm")
        main.write_text("int main(void) { return 0; }\n")
        empty = subprocess.run([*compiler, *sanitize, main, "-o", program], capture_output=True, check=False)
        if empty.returncode or subprocess.run([program], capture_output=True, check=False).returncode:
            pytest.skip("this compiler has no address sanitizer that runs here")
        main.write_text(exercise)
        numeric = [flag for flag in native.FLAGS if flag not in ("-shared", "-fPIC", "-O3")]
        sanitized = _complaints(*compiler, "-O1", *numeric, *sanitize, f"-I{source.parent}", main, "-o", program, "-lm")
        return [strict, sanitized, "not compiled" if sanitized else _complaints(program)]

    return examined
