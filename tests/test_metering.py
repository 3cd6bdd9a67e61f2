"""What a stage is said to have cost."""

from __future__ import annotations

import subprocess
import sys

from engine.metering import host_peak_memory

PARENT = """
import subprocess, sys
held = b"1" * 400_000_000
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
CHILD = "from engine.metering import host_peak_memory; print(host_peak_memory())"


def test_what_the_starting_process_held_is_not_counted() -> None:
    run = [sys.executable, "-c", PARENT, CHILD]
    peak = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert 5e6 < peak < 200e6


def test_what_was_given_back_is_counted() -> None:
    before = host_peak_memory()
    held = b"1" * (before + 100_000_000)
    del held
    assert host_peak_memory() > before + 50_000_000
