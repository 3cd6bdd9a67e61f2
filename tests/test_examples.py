"""Every notebook in examples/ runs from its first cell to its last, in a project as a user has it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.smallproject import environment

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "examples").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert [notebook.name for notebook in NOTEBOOKS] == ["first_study.ipynb"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A project under git and DVC, with the specs of this one and nothing made yet."""
    shutil.copytree(PROJECT / "specs", tmp_path / "specs")
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvc/config", "engine/numerics.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet", "--force"]):
        subprocess.run(command, cwd=tmp_path, check=True, env=environment())
    shutil.copy(PROJECT / ".dvc/config", tmp_path / ".dvc/config")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(notebook: Path, repository: Path) -> None:
    (repository / "examples").mkdir()
    copy = repository / "examples" / notebook.name
    shutil.copy(notebook, copy)
    script = (
        "import nbformat, sys; from nbclient import NotebookClient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "NotebookClient(book, timeout=1200, resources={'metadata': {'path': '.'}}).execute()\n"
        "nbformat.write(book, sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(copy)],
        cwd=repository,
        env=environment() | {"IPYTHONDIR": str(repository / ".ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads(copy.read_text())["cells"] if cell["cell_type"] == "code"]
    printed = ["".join("".join(out.get("text", "")) for out in cell["outputs"]) for cell in cells]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "clean        linear" in printed[2]
    assert "cp_s         linear" in printed[2]
    assert "largest noise: 16 of 255; budget: 16" in printed[3]
    assert any("image/png" in out.get("data", {}) for out in cells[4]["outputs"])
    assert (repository / printed[-1].strip()).is_file()
