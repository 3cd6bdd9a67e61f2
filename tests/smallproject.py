"""A project of real stages that each take seconds, for tests that break them from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BACKBONE = "{kind: resnet18, width: 8, stages: [1, 1]}"
VICTIM = f"backbone: {BACKBONE}\nviews: {{size: 8}}\nbatch_size: 32\nepochs: 36\nwarmup_epochs: 1\n"
SPECS = {
    "datasets/small.yaml": "kind: digits\nimage_size: 8\ntrain_per_class: 64\ntest_per_class: 10\n",
    "attacks/small_cp.yaml": "kind: contrastive_poisoning\nepsilon: 8/255\ngranularity: sample\nrounds: 20\n"
    "model_steps: 10\nnoise_steps: 5\npgd_steps: 2\nsurrogate:\n  kind: simclr\n"
    f"  backbone: {BACKBONE}\n  views: {{size: 8}}\n  batch_size: 32\n",
    "victims/small_simclr.yaml": f"kind: simclr\n{VICTIM}",
    "victims/small_moco.yaml": f"kind: moco_v2\nqueue: 64\nencoder_momentum: 0.9\n{VICTIM}",
    "protocols/banked.yaml": "linear: {epochs: 10, copies: 2}\n",
    # One thread of the CPU: what is made can be compared byte by byte.
    "layouts/one_thread.yaml": "kind: local\ndevice: cpu\nthreads: 1\ncheckpoint_minutes: 0.01\n",
}
COORDINATES = ("--poison", "cp", "--defense", "none", "--seed", "0")


def small_project(root: Path, **changes: str) -> Path:
    """Make the project in a folder; ``changes`` replace spec files, named without their folder and ending."""
    shutil.copytree(PROJECT / "specs", root / "specs", dirs_exist_ok=True)
    for name, text in SPECS.items():
        (root / "specs" / name).write_text(changes.get(Path(name).stem, text))
    (root / "params.yaml").write_text("precision: fp32\nlayout: one_thread\n")
    return root


def command(stage: str, *options: str) -> list[str]:
    """Return the command of a stage of the small data set."""
    return [sys.executable, "-m", "engine", stage, "--dataset", "small", *options]


def environment() -> dict[str, str]:
    """Return an environment in which a command finds this tree's engine, and no GPU."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(root: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a project to its end."""
    return subprocess.run(
        arguments,
        cwd=root,
        env=environment() | changes,
        capture_output=True,
        text=True,
        check=False,
    )


GENERATE = command("generate", "--name", "cp", "--attack", "small_cp", "--init", "uniform")
PRETRAIN = command("pretrain", "--victim", "small_simclr", *COORDINATES)
PRETRAIN_MOCO = command("pretrain", "--victim", "small_moco", *COORDINATES)
PROBE = command("probe", "--victim", "small_simclr", "--downstream", "small", "--protocol", "banked", *COORDINATES)
