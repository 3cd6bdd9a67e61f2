"""Images that stream from a file are those in memory, and neither memory nor files are left behind."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.artifacts import Encoded, encoded_images, read_images, read_manifest, write_poison
from engine.batching import Resident
from engine.protocols import ImageSet, Poison
from engine.randomness import stream
from engine.streaming import SCRATCH, Streamed, streamed
from tests.making import about

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
CPU = torch.device("cpu")
COUNT = 37


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images() -> ImageSet:
    """Images of noise, none of which is square, in an artifact ``poison`` of several row groups."""
    pixels = torch.randint(0, 256, (COUNT, 3, 8, 11), generator=stream(0, "images"), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(COUNT) * 7 % 5, tuple("abcde"))


@pytest.fixture
def folder(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("engine.artifacts.encoding.ROWS", 10)
    write_poison(
        Path("poison"),
        clean=images,
        released=images,
        poison=Poison(torch.zeros(5, 3, 8, 11, dtype=torch.int8), "class", unit=1 / 255),
        perturbed=torch.zeros(COUNT, dtype=torch.bool),
        about=about(),
    )
    return Path("poison")


def orders(epochs: int) -> Iterator[Tensor]:
    generator = stream(0, "orders")
    return (torch.randperm(COUNT, generator=generator) for _ in range(epochs))


def scratch_is_gone() -> bool:
    """Whether nothing has a name under ``SCRATCH``, and this process has no file without a name open there."""
    open_files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return not list(SCRATCH.iterdir()) and not [name for name in open_files if str(SCRATCH.resolve()) in name]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_those_from_memory_to_the_bit(images: ImageSet, folder: Path, workers: int) -> None:
    resident = Resident(read_images(folder, read_manifest(folder)))
    assert torch.equal(resident.images.images_u8, images.images_u8)
    compared = 0
    with streamed(encoded_images(folder), device=CPU, workers=workers) as feed:
        assert len(feed) == len(resident) == COUNT
        for order, batch_size in zip(orders(4), (8, 8, 5, COUNT), strict=True):
            pairs = zip(resident.batches(order, batch_size), feed.batches(order, batch_size), strict=True)
            for (expected, expected_labels), (found, labels) in pairs:
                assert torch.equal(found, expected)
                assert torch.equal(labels, expected_labels)
                # Decoded images lie channels last; a step must meet the layout in memory that it meets elsewhere.
                assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
                assert labels.dtype == expected_labels.dtype
                compared += len(labels)
    assert compared == 32 + 32 + 35 + 37
    assert scratch_is_gone()


def test_a_pass_that_was_left_does_not_reach_into_the_next(images: ImageSet, folder: Path) -> None:
    first, second = orders(2)
    with streamed(encoded_images(folder), device=CPU, workers=1) as feed:
        next(feed.batches(first, 4))
        found = torch.cat([pixels for pixels, _ in feed.batches(second, 4)])
    assert torch.equal(found, images.images_u8[second[:36]])


def test_workers_serve_every_pass_and_end_with_the_feed(folder: Path) -> None:
    assert multiprocessing.active_children() == []
    with streamed(encoded_images(folder), device=CPU, workers=2) as feed:
        passes = []
        for order in orders(3):
            assert sum(1 for _ in feed.batches(order, 8)) == 4
            passes.append({child.pid for child in multiprocessing.active_children()})
    assert passes[0] == passes[1] == passes[2]
    assert len(passes[0]) == 2
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_left_after_an_error_in_the_middle_of_a_pass(folder: Path, workers: int) -> None:
    def consume(feed: Streamed) -> None:
        for _ in feed.batches(torch.arange(COUNT), 8):
            raise RuntimeError("stop")

    with (
        pytest.raises(RuntimeError, match="stop") as stopped,
        streamed(encoded_images(folder), device=CPU, workers=workers) as feed,
    ):
        consume(feed)
    assert stopped.tb is not None
    assert multiprocessing.active_children() == []  # though the traceback still keeps the pass
    del stopped, feed
    assert scratch_is_gone()


def test_nothing_is_left_when_the_images_cannot_be_read() -> None:
    def broken() -> Iterator[Encoded]:
        yield Encoded([b"one"], [1], [0], [False])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk is gone"), streamed(broken(), device=CPU, workers=0):
        pass
    assert scratch_is_gone()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_stops_the_pass(workers: int) -> None:
    with (
        streamed([Encoded([b"no image"], [0], [0], [False])], device=CPU, workers=workers) as feed,
        pytest.raises(RuntimeError),
    ):
        next(feed.batches(torch.zeros(1, dtype=torch.int64), 1))
    assert multiprocessing.active_children() == []


def test_the_global_random_state_is_left_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    with streamed(encoded_images(folder), device=CPU, workers=1) as feed:
        list(feed.batches(torch.arange(COUNT), 8))
    assert torch.equal(torch.get_rng_state(), before)


KILLED = """
    import multiprocessing, time, torch
    from pathlib import Path
    from engine.artifacts import encoded_images
    from engine.streaming import streamed

    with streamed(encoded_images(Path("poison")), device=torch.device("cpu"), workers=1) as feed:
        next(feed.batches(torch.arange(8), 8))
        print(multiprocessing.active_children()[0].pid, flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_scratch_file_and_no_worker(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    worker = Path("/proc") / process.stdout.readline().strip()
    assert (worker / "status").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(SCRATCH.iterdir()) == []
    for _ in itertools.takewhile(lambda _: worker.exists(), range(300)):
        time.sleep(0.1)
    assert not worker.exists()


MEASURED = """
    import json, torch
    from pathlib import Path
    from engine.artifacts import encoded_images, read_images, read_manifest
    from engine.batching import Resident
    from engine.metering import host_peak_memory
    from engine.streaming import streamed

    def passes(feed):
        for _ in range(2):
            for images, _ in feed.batches(torch.randperm(len(feed)), 32):
                images.float().mean()

    def stream_from(folder):
        read_manifest(folder)
        with streamed(encoded_images(folder), device=torch.device("cpu"), workers=0) as feed:
            passes(feed)

    def hold(folder):
        passes(Resident(read_images(folder, read_manifest(folder))))

    stream_from(Path("small")), hold(Path("small"))  # libraries are loaded and pools filled
    marks = [host_peak_memory()]
    for use in (stream_from, hold):
        use(Path("large"))
        marks.append(host_peak_memory())
    print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""


def write_ramps(folder: Path, count: int, size: int = 64) -> int:
    """Write images whose PNG files are small beside their pixels, and return the size of the pixels."""
    ramp = torch.arange(size, dtype=torch.uint8)
    shift = torch.arange(count)[:, None, None, None].to(torch.uint8)
    pixels = (ramp + ramp[:, None] + shift).expand(count, 3, size, size).contiguous()
    released = ImageSet(pixels, torch.zeros(count, dtype=torch.int64), ("a",))
    poison = Poison(torch.zeros(1, 3, size, size, dtype=torch.int8), "class", unit=1 / 255)
    perturbed = torch.zeros(count, dtype=torch.bool)
    write_poison(folder, clean=released, released=released, poison=poison, perturbed=perturbed, about=about())
    return pixels.nbytes


@pytest.mark.slow
def test_the_decoded_images_are_never_held() -> None:
    write_ramps(Path("small"), 64)
    decoded = write_ramps(Path("large"), 3000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURED)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    by_streaming, by_holding = json.loads(done.stdout)
    assert by_holding > 0.8 * decoded  # the measure notices what it is meant to notice
    assert by_streaming < 0.4 * decoded
