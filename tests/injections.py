"""Faults that real commands are given, and what they say: one function a fault, each in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.smallproject import GENERATE, PRETRAIN, PROBE, PROJECT, SPECS, environment, run, small_project

CLEAN = [*GENERATE[: GENERATE.index("--attack")], "--attack", "clean", "--init", "zero"]
FAST = SPECS["victims/small_simclr.yaml"].replace("epochs: 36", "epochs: 2")
OVERFLOWING = "lr: 1.0e+30\n"
PATIENCE = 300.0
ROOM_FOR_NO_POISON = 60_000
ROOM_FOR_AN_ENCODER = 200_000


class Skipped(Exception):
    """A fault that cannot be injected here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What was injected, how the command ended, and the line with which it said so."""

    injected: str
    status: str
    said: str


def _outcome(injected: str, done: subprocess.CompletedProcess[str], words: str, root: Path) -> Outcome:
    """Keep the line of a command's output that holds some words; all of it where none does."""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if words in line]
    said = lines[0] if lines else done.stderr + done.stdout
    for place, name in ((f"{root}/", ""), (str(root), "the project"), (f"{PROJECT}/", "")):
        said = said.replace(place, name)
    return Outcome(injected, f"exit {done.returncode}", said.strip())


def _prepared(root: Path, **changes: str) -> Path:
    """Make the project with an unperturbed poison and a learner that trains for two epochs."""
    small_project(root, **{"small_simclr": FAST, **changes})
    done = run(root, *CLEAN)
    assert done.returncode == 0, done.stderr
    return root


def _patched(root: Path, patch: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a stage in a process in which some lines of Python were run first."""
    main = f"import sys, torch\n{patch}\nfrom engine.cli import main\nmain()"
    return run(root, sys.executable, "-c", main, *arguments[3:])


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small file system of memory on a folder.

    Raises:
        Skipped: this user may not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Skipped(f"a file system can only be mounted by root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(root: Path, *, but: int) -> None:
    """Take all room of a file system but so many bytes."""
    free = os.statvfs(root).f_bavail * os.statvfs(root).f_bsize
    (root / "filler").write_bytes(bytes(free - but))


def loss_of_a_victim_that_is_no_number(root: Path) -> Outcome:
    """Train with a learning rate that overflows."""
    _prepared(root, small_simclr=FAST + OVERFLOWING)
    return _outcome("a victim's loss that is no number", run(root, *PRETRAIN), "the loss is", root)


def loss_of_a_surrogate_that_is_no_number(root: Path) -> Outcome:
    """Search with a learning rate that overflows."""
    small_project(root, small_cp=SPECS["attacks/small_cp.yaml"] + f"  {OVERFLOWING}")
    return _outcome("a surrogate's loss that is no number", run(root, *GENERATE), "the loss of the", root)


def out_of_memory_in_pretraining(root: Path) -> Outcome:
    """Ask the allocator for an exbibyte at the first step."""
    _prepared(root)
    patch = "import engine.training.pretrain as p\np.descend = lambda *_: torch.empty(2**58)"
    return _outcome("no memory for a training step", _patched(root, patch, PRETRAIN), "out of memory", root)


def out_of_memory_in_an_attack(root: Path) -> Outcome:
    """Ask the allocator for an exbibyte at the first step of a surrogate."""
    small_project(root)
    patch = "import engine.training.bilevel as b\nb.descend = lambda *_, **__: torch.empty(2**58)"
    return _outcome("no memory for a surrogate's step", _patched(root, patch, GENERATE), "out of memory", root)


def full_disk_when_a_poison_is_written(root: Path) -> Outcome:
    """Generate on a file system with less room than the poison takes."""
    with _mounted(root, "size=8m"):
        small_project(root)
        _fill(root, but=ROOM_FOR_NO_POISON)
        done = run(root, *GENERATE)
        return _outcome("a full disk when a poison is written", done, "error: ", root)


def full_disk_when_a_checkpoint_is_written(root: Path) -> Outcome:
    """Train while there is no room for a checkpoint, but for what comes out of it."""
    with _mounted(root, "size=8m"):
        _prepared(root)
        _fill(root, but=ROOM_FOR_AN_ENCODER)
        done = run(root, *PRETRAIN)
        assert (root / "artifacts/small/curve/cp-small_simclr-none-0.csv").is_file()
    return _outcome("a full disk when a checkpoint is written", done, "no checkpoint could be written", root)


def read_only_scratch_folder(root: Path) -> Outcome:
    """Train where .work cannot be written to."""
    _prepared(root)
    with _mounted(root / ".work", "ro"):
        return _outcome(".work that is read-only", run(root, *PRETRAIN), "error: ", root)


def cache_of_compiled_code_that_cannot_be_written(root: Path) -> Outcome:
    """Train where the user's cache is a file."""
    _prepared(root)
    (root / "cache").touch()
    done = run(root, *PRETRAIN, XDG_CACHE_HOME=str(root / "cache"))
    return _outcome("a cache of compiled code that cannot be written", done, "more slowly", root)


def unreadable_image_among_a_thousand(root: Path) -> Outcome:
    """Cut one of a thousand image files off in its middle."""
    small_project(root, small="kind: imagefolder\nimage_size: 8\npath: photographs\ntest_fraction: 0.2\n")
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = root / "data/photographs" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.png")
    broken = root / "data/photographs/b/501.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return _outcome("an unreadable image among 1,000", run(root, *CLEAN), "501.png", root)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def bit_of_a_poison_flipped(root: Path) -> Outcome:
    """Change one bit of the released images."""
    _prepared(root)
    _flip(root / "artifacts/small/poison/cp/train-00000.parquet")
    return _outcome("a flipped bit of a poison", run(root, *PRETRAIN), "differs from the checksum", root)


def bit_of_an_encoder_flipped(root: Path) -> Outcome:
    """Change one bit of an encoder's weights."""
    _prepared(root)
    assert run(root, *PRETRAIN).returncode == 0
    _flip(next((root / "artifacts/small/encoder").iterdir()))
    return _outcome("a flipped bit of an encoder", run(root, *PROBE), "encoder/", root)


def encoder_cut_off(root: Path) -> Outcome:
    """Lose the second half of an encoder."""
    _prepared(root)
    assert run(root, *PRETRAIN).returncode == 0
    encoder = next((root / "artifacts/small/encoder").iterdir())
    encoder.write_bytes(encoder.read_bytes()[: encoder.stat().st_size // 2])
    return _outcome("an encoder that is cut off", run(root, *PROBE), "encoder/", root)


def bit_of_a_checkpoint_flipped(root: Path) -> Outcome:
    """Stop a training, change one bit of its newest checkpoint, and go on."""
    _prepared(root, small_simclr=SPECS["victims/small_simclr.yaml"].replace("epochs: 36", "epochs: 200"))
    with subprocess.Popen(PRETRAIN, cwd=root, env=environment(), stdout=subprocess.DEVNULL) as process:
        written = _wait_for(lambda: sorted((root / ".work/checkpoints").rglob("*.json")))
        process.terminate()
    (root / "specs/victims/small_simclr.yaml").write_text(FAST)
    _flip(max(written[-1].parent.glob("*.pt")))
    return _outcome("a flipped bit of a checkpoint", run(root, *PRETRAIN), "is not used", root)


def _wait_for(look: Callable[[], list[Path]]) -> list[Path]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError("nothing was written")


def no_remote_to_push_to(root: Path) -> Outcome:
    """Push in a project without a DVC remote."""
    root = _dvc_project(root)
    (root / "out").write_text("made")
    assert run(root, "dvc", "add", "--quiet", "out").returncode == 0
    return _outcome("`dvc push` without a remote", run(root, "dvc", "push"), "ERROR", root)


def _dvc_project(root: Path) -> Path:
    assert run(root, "dvc", "init", "--quiet", "--no-scm").returncode == 0
    return root


def cache_of_dvc_that_cannot_be_written(root: Path) -> Outcome:
    """Let DVC keep what a stage made where its cache is read-only."""
    root = _dvc_project(root)
    (root / "dvc.yaml").write_text("stages:\n  made:\n    cmd: echo made > out\n    outs: [out]\n")
    with _mounted(root / ".dvc/cache", "ro"):
        done = run(root, "dvc", "repro")
    assert (root / "out").read_text() == "made\n"
    assert not (root / "dvc.lock").exists()
    again = run(root, "dvc", "repro")
    assert again.returncode == 0, again.stderr
    return _outcome("a cache of DVC that is read-only", done, "ERROR", root)


def two_dvc_repros_at_once(root: Path) -> Outcome:
    """Start a second `dvc repro` while a first one runs the same stage."""
    root = _dvc_project(root)
    (root / "dvc.yaml").write_text(
        "stages:\n  slow:\n    cmd: touch started && sleep 8 && touch out\n    outs: [out]\n"
    )
    with subprocess.Popen(
        ["dvc", "repro"], cwd=root, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        _wait_for(lambda: [root / "started"] if (root / "started").exists() else [])
        second = run(root, "dvc", "repro")
    assert first.returncode == 0
    return _outcome("a second `dvc repro` of the same stage", second, "ERROR", root)


def clock_that_jumps_back_a_day(root: Path) -> Outcome:
    """Train while the time of day goes back a day at every look."""
    _prepared(root)
    assert run(root, *PRETRAIN).returncode == 0
    encoder = next((root / "artifacts/small/encoder").iterdir())
    before = encoder.read_bytes()
    encoder.unlink()
    patch = "import itertools, time\nticks = itertools.count()\nnow = time.time()\n"
    done = _patched(root, f"{patch}time.time = lambda: now - 86400 * next(ticks)", PRETRAIN)
    is_same = "the encoder is the same" if encoder.read_bytes() == before else "another encoder"
    return Outcome("a clock that jumps back a day at every look", f"exit {done.returncode}", is_same)


def command_in_a_name(root: Path) -> Outcome:
    """Declare a study whose poison's name holds a command."""
    small_project(root)
    study = (root / "specs/studies/quickstart.yaml").read_text().replace("    clean:", '    "clean; touch hacked":')
    (root / "specs/studies/quickstart.yaml").write_text(study)
    done = run(root, sys.executable, "-m", "engine", "validate", "--study", "quickstart")
    assert not (root / "hacked").exists()
    return _outcome("a command in a name", done, "touch hacked", root)


def path_out_of_the_data_root(root: Path) -> Outcome:
    """Declare a data set above the data root."""
    small_project(root, small="kind: imagefolder\nimage_size: 8\npath: ../elsewhere\ntest_fraction: 0.2\n")
    return _outcome("a path out of the data root", run(root, *CLEAN), "data root", root)


INJECTIONS: dict[Callable[[Path], Outcome], tuple[str, tuple[str, ...]]] = {
    loss_of_a_victim_that_is_no_number: (
        "exit 1",
        (
            "error: the loss is nan in epoch 1, step 3; lower the learning rate",
            ".work/diverged/pretrain-small-cp-small",
        ),
    ),
    loss_of_a_surrogate_that_is_no_number: (
        "exit 1",
        ("error: the loss of the surrogate is nan, round 1, model, step 2", ".work/diverged/generate-small-cp."),
    ),
    out_of_memory_in_pretraining: (
        "exit 1",
        ("out of memory on cpu", "lower batch_size in specs/victims/small_simclr.yaml, or the layout's resident_gb"),
    ),
    out_of_memory_in_an_attack: (
        "exit 1",
        ("out of memory on cpu", "lower surrogate.batch_size in specs/attacks/small_cp.yaml"),
    ),
    full_disk_when_a_poison_is_written: (
        "exit 1",
        ("error: artifacts/small/poison/cp cannot be written: No space left on device", "make room there"),
    ),
    full_disk_when_a_checkpoint_is_written: (
        "exit 0",
        ("no checkpoint could be written, and training goes on", "No space left on device"),
    ),
    read_only_scratch_folder: ("exit 1", ("cannot be written: Read-only file system", ".work")),
    cache_of_compiled_code_that_cannot_be_written: ("exit 0", ("on torch alone, more slowly",)),
    unreadable_image_among_a_thousand: ("exit 1", ("data/photographs/b/501.png", "truncated")),
    bit_of_a_poison_flipped: ("exit 1", ("error: artifacts/small/poison/cp/train-00000.parquet differs",)),
    bit_of_an_encoder_flipped: ("exit 1", ("is damaged (its checksum is another)",)),
    encoder_cut_off: ("exit 1", (".safetensors is damaged", "remove it and run `dvc repro`")),
    bit_of_a_checkpoint_flipped: ("exit 0", ("is not used: it is damaged: its checksum is another",)),
    no_remote_to_push_to: ("exit 1", ("no remote specified",)),
    cache_of_dvc_that_cannot_be_written: ("exit 255", ("Read-only file system",)),
    two_dvc_repros_at_once: ("exit 255", ("'out' is busy, it is being blocked by",)),
    clock_that_jumps_back_a_day: ("exit 0", ("the encoder is the same",)),
    command_in_a_name: ("exit 1", ("string should match pattern '^[a-z0-9_]+$'",)),
    path_out_of_the_data_root: ("exit 1", ("must not leave the data root with '..'",)),
}
"""Every fault, how its command must end, and words that its message must hold."""
