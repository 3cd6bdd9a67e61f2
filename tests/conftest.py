"""Fixtures that several test folders share."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
CIFAR_SUBSET = PROJECT.parent / "shared" / "data" / "cifar10-subset.tar"


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
