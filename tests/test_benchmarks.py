"""The benchmarks: what they declare, that each one runs, what they write. No test here asserts a time."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import lab as settings
from benchmarks import report
from benchmarks.cli import app
from benchmarks.lab import Lab
from benchmarks.registry import RIVALS, Benchmark, Pair, benchmarks, modules
from benchmarks.timing import Timing, alternate, whole

PROJECT = Path(__file__).parents[1]
KEYS = {"ours", "theirs", "ratio", "target", "unit"}
# name: (target, what is better)
DECLARED = {
    "views_forward_vs_kornia": (5, "larger"),
    "views_backward_vs_kornia": (4, "larger"),
    "views_forward_vs_pillow": (15, "larger"),
    "step_over_bare_resnet18": (1.04, "smaller"),
    "step_over_bare_tiny": (1.2, "smaller"),
    "step_vs_lightly_tiny": (2, "larger"),
    "step_vs_lightly_resnet18": (1, "larger"),
    "pgd_over_bare": (1.1, "smaller"),
    "completion_vs_numpy": (3, "larger"),
    "delta_memory_mb": (350, "smaller"),
    "gemm_fraction_resnet18": (None, "larger"),
}
missing = [name for name in RIVALS if not importlib.util.find_spec(name)]
with_rivals = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: `make bench` does")
# A data loader's workers are forked, which later Pythons warn about where threads run.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def ticking() -> Any:
    """A clock that shows a second more at every look."""
    return itertools.count().__next__


def tiny_lab(*, is_full: bool = False) -> Lab:
    sizes = {"batch": 2, "small_images": 3, "large_images": 1, "poisoned_images": 64, "product_sizes": (8,)}
    return Lab(repeats=1, slow_repeats=1, calls=1, is_full=is_full, **sizes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the project's root, wait for no workers, and measure memory in no other process."""
    from benchmarks import lightly_loop
    from benchmarks.themes import memory

    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(lightly_loop, "SETTLE", 0.0)
    monkeypatch.setattr(memory, "_measured", lambda count, start: float(count))


def functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    for file in sorted((PROJECT / "benchmarks").rglob("*.py")):
        yield from ((file, node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef))


def test_every_benchmark_is_declared_with_its_target() -> None:
    found = {name: (each.target, each.better) for name, each in benchmarks().items()}
    assert found == DECLARED
    assert all(each.what.endswith(".") for each in benchmarks().values())
    assert [name for name, each in benchmarks().items() if each.judged == "ours"] == ["delta_memory_mb"]


@forks
@pytest.mark.slow
def test_a_quick_run_writes_every_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "quick", lambda threads: tiny_lab())
    file = tmp_path / "folder" / "bench.json"
    done = CliRunner().invoke(app, ["--quick", "--json", str(file)])
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert set(written) == set(DECLARED)
    for name, row in written.items():
        assert set(row) == KEYS
        assert row["target"] == DECLARED[name][0]
        assert name in done.stdout
        if not missing:
            assert min(row["ours"], row["theirs"], row["ratio"]) > 0


@forks
def test_one_benchmark_can_be_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "quick", lambda threads: tiny_lab())
    file = tmp_path / "bench.json"
    assert CliRunner().invoke(app, ["--quick", "--only", "delta_memory_mb", "--json", str(file)]).exit_code == 0
    assert set(json.loads(file.read_text())) == {"delta_memory_mb"}
    wrong = CliRunner().invoke(app, ["--only", "step_over_nothing"])
    assert wrong.exit_code == 2
    assert "step_over_nothing" in wrong.stderr


@with_rivals
@forks
@pytest.mark.slow
def test_a_full_run_writes_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "full", lambda threads: tiny_lab(is_full=True))
    done = CliRunner().invoke(app, ["--threads", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {file.name for file in tmp_path.iterdir()} == {"results.md", "results.png", "results.json", "errors.md"}
    page = (tmp_path / "results.md").read_text()
    assert all(f"`{name}`" in page for name in DECLARED)
    assert all(f"## {theme.TITLE}" in page for theme in modules())
    written = json.loads((tmp_path / "results.json").read_text())
    assert {"processor", "cores", "torch", "kornia", "lightly", "pillow", "date"} <= set(written["machine"])
    (run,) = written["runs"]
    assert set(run["comparisons"]) == set(DECLARED)
    steps = {(row["network"], row["step"]) for row in run["tables"]["Noise steps"]}
    assert ("resnet18", "noise step") in steps
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['benchmarks', '--help']\n"
        "try: runpy.run_module('benchmarks', run_name='__main__')\n"
        "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


@pytest.mark.parametrize(
    ("better", "ratio", "judged", "pair", "expected"),
    [
        ("larger", "ours/theirs", "ratio", Pair(20.0, 10.0), (2.0, True)),
        ("larger", "ours/theirs", "ratio", Pair(10.0, 20.0), (0.5, False)),
        ("larger", "theirs/ours", "ratio", Pair(10.0, 20.0), (2.0, True)),
        ("smaller", "ours/theirs", "ratio", Pair(12.0, 10.0), (1.2, True)),
        ("smaller", "ours/theirs", "ratio", Pair(20.0, 10.0), (2.0, False)),
        ("smaller", "ours/theirs", "ours", Pair(1.0, 10.0), (0.1, True)),
        ("smaller", "ours/theirs", "ours", Pair(2.0, 10.0), (0.2, False)),
    ],
)
def test_a_target_is_reached_from_its_own_side(better, ratio, judged, pair, expected) -> None:
    declared = Benchmark("What.", lambda lab: pair, "unit", ratio, better, 1.5, judged)
    row = declared.run(Lab())
    assert (row["ratio"], declared.reached(row)) == expected
    assert report.verdict(row, declared) == ("reached" if expected[1] else "missed")


def test_a_target_met_exactly_is_reached_and_without_one_nothing_is() -> None:
    for better in ("larger", "smaller"):
        declared = Benchmark("What.", lambda lab: Pair(3.0, 2.0), "x", "ours/theirs", better, 1.5, "ratio")
        assert declared.reached(declared.run(Lab())) is True
    aimless = Benchmark("What.", lambda lab: Pair(3.0, 2.0), "x", "ours/theirs", "larger", None, "ratio")
    assert aimless.reached(aimless.run(Lab())) is None
    assert report.target(aimless) == "-"


def test_a_missing_rival_leaves_no_numbers_and_any_other_missing_module_is_an_error() -> None:
    def without(module: str) -> Benchmark:
        def measure(lab: Lab) -> Pair:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)

        return Benchmark("What.", measure, "x", "ours/theirs", "larger", 2.0, "ratio")

    row = without("kornia.augmentation").run(Lab())
    assert row == {"ours": None, "theirs": None, "ratio": None, "target": 2.0, "unit": "x"}
    assert report.verdict(row, without("kornia")).startswith("rival not installed")
    with pytest.raises(ModuleNotFoundError):
        without("torchvisoin").run(Lab())


def test_work_is_timed_in_turn() -> None:
    order: list[str] = []
    works = {name: whole(lambda name=name: order.append(name), calls=2) for name in ("ours", "theirs")}
    timings = alternate(works, repeats=2, warmups=1, clock=ticking())
    assert order == ["ours", "ours", "theirs", "theirs"] * 3
    # A tick between two looks at the clock, over two calls.
    assert timings == {"ours": Timing((0.5, 0.5)), "theirs": Timing((0.5, 0.5))}


def test_no_round_starts_after_the_budget() -> None:
    timings = alternate({"ours": whole(lambda: None)}, repeats=5, warmups=0, clock=ticking(), budget=0.0)
    assert len(timings["ours"].seconds) == 1


def test_medians_and_quartiles() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert Timing((1.0, 3.0, 2.0)).quartiles == (1.0, 3.0)


def test_the_operations_of_a_step_grow_with_its_batch() -> None:
    from benchmarks.themes import gemm

    counted = gemm.step_flops("tiny", gemm.COUNTED)
    assert counted > 1e6
    assert gemm.step_flops("tiny", 64) == 32 * counted
    gemm.step_flops.cache_clear()
    gemm.COUNTED, before = 4, gemm.COUNTED
    try:
        assert gemm.step_flops("tiny", 2) == counted
    finally:
        gemm.COUNTED = before
        gemm.step_flops.cache_clear()


def test_the_errors_of_views_in_eight_bits_are_none() -> None:
    from benchmarks import errors

    found = errors.table(6)
    assert len(found) == 7
    assert all(("kornia" in row) == ("kornia" not in missing) for row in found.values())
    for title, row in found.items():
        if title != "crop and resize, shrinking":  # Pillow 13 may resize such an image's height first
            assert row["engine, eight bits"] == (0.0, 0.0), title
    assert found["grayscale"]["engine, floats"][0] <= 0.51
    assert "| brightness |" in report.errors_page(found, 6)


@pytest.mark.slow
def test_the_memory_of_noise_is_measured_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "benchmarks.poisoning", "4000", "uniform"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The noise of 4,000 images is 25 MB in half precision; the network's activations come on top.
    assert 20 < float(done.stdout) < 200


def test_modules_and_functions_are_short() -> None:
    found = list(functions())
    assert len(found) >= 60
    assert {str(file) for file, _ in found if len(file.read_text().splitlines()) > 250} == set()
    assert [node.name for _, node in found if (node.end_lineno or 0) - node.lineno + 1 > 40] == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot keep a process on some cores")
def test_a_lab_is_kept_on_as_many_cores_as_it_has_threads() -> None:
    before = os.sched_getaffinity(0)
    with Lab(threads=1).open():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
