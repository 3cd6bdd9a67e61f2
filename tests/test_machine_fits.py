"""Which images a local layout keeps on its device, and what it may declare of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from engine.machine import Machine
from engine.specfiles import SpecFault, load

FREE = 1_000_000


def machine(**changes: Any) -> Machine:
    return Machine.of("cpu", "fp32", **changes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("resident_gb: -1", r"resident_gb: .*greater than or equal to 0"),
        ("resident_gb: .nan", r"resident_gb: .*finite"),
        ("resident_gb: half", r"resident_gb: .*number"),
        ("workers: -1", r"workers: .*greater than or equal to 0"),
        ("workers: 1.5", r"workers: .*integer"),
        ("workers: null", r"workers: .*integer"),
        ("worker: 2", r"did you mean 'workers'"),
    ],
)
def test_a_wrong_field_is_named(project: Path, line: str, words: str) -> None:
    (project / "specs/layouts/wrong.yaml").write_text(f"kind: local\n{line}\n")
    with pytest.raises(SpecFault, match=words):
        load("layouts", "wrong")


def test_the_declared_layout_takes_the_defaults(project: Path) -> None:
    spec = load("layouts", "local")
    assert (spec.resident_gb, spec.workers) == (None, 2)
    (project / "specs/layouts/tight.yaml").write_text("kind: local\nresident_gb: 2\nworkers: 0\n")
    built = Machine.of(precision="fp32", **load("layouts", "tight").machine_fields())
    assert (built.resident_gb, built.workers) == (2.0, 0)


def test_images_fit_up_to_the_declared_size() -> None:
    assert machine(resident_gb=1e-6).fits(1000)
    assert not machine(resident_gb=1e-6).fits(1001)
    assert not machine(resident_gb=0.0).fits(1)
    assert machine(resident_gb=1e6).fits(10**14)


def free(monkeypatch: pytest.MonkeyPatch, *, host: int, gpu: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": host}))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu, 10 * gpu))


@pytest.mark.parametrize(
    ("device", "host", "gpu"), [("cpu", FREE, 1), ("cuda:0", 9 * FREE, FREE), ("cuda:0", FREE, 9 * FREE)]
)
def test_without_a_declared_size_half_of_the_free_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch, device: str, host: int, gpu: int
) -> None:
    free(monkeypatch, host=host, gpu=gpu)
    built = Machine(torch.device(device), machine().precision)
    assert built.fits(FREE // 2)
    assert not built.fits(FREE // 2 + 1)


def test_a_real_cpu_has_room_for_something() -> None:
    assert machine().fits(1)
    assert not machine().fits(10**18)
