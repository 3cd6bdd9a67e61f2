"""Damaged releases of every form: a clear error, or what was in them; never anything else, and nothing is executed.

``ENGINE_FUZZ=1000 pytest tests/importing/test_damage.py`` tries a thousand of each form.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.importing import ImportFault, poison_of, read
from tests.importing.releases import EPSILON, FORMS, clean_images, levels

EXAMPLES = int(os.environ.get("ENGINE_FUZZ", "60"))


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Flip bits, cut, insert, repeat or exchange parts of a file; or put anything in its place."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), at + draw(st.integers(1, 64)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "put", "repeat", "end"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and content:
            content[at] = draw(st.sampled_from([0, 1, 0x2E, 0x52, 0x63, 0x80, 0xFF]))  # among them STOP, REDUCE, GLOBAL
        elif kind == "cut":
            del content[at:end]
        elif kind == "put":
            content[at:at] = draw(st.binary(max_size=16))
        elif kind == "repeat":
            content[at:at] = content[at:end]
        elif kind == "end":
            del content[max(at, 1) :]
    return bytes(content)


@pytest.mark.parametrize("form", FORMS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_damage_is_told_or_harmless(form: str, data: st.DataObject, tmp_path: Path) -> None:
    layout, name, write = FORMS[form]
    good = tmp_path / "good"
    if not good.exists():
        good.mkdir()
        write(good / name)
    source = tmp_path / "now" / name
    shutil.rmtree(source.parent, ignore_errors=True)
    shutil.copytree(good, source.parent)
    files = [source] if source.is_file() else sorted(file for file in source.rglob("*") if file.is_file())
    victim = files[data.draw(st.integers(0, len(files) - 1))]
    victim.write_bytes(data.draw(damaged(victim.read_bytes())))
    clean = clean_images()
    try:
        poison = poison_of(read(source, layout, clean), clean, epsilon=EPSILON)
    except ImportFault as fault:
        assert name in str(fault) or "image" in str(fault), fault
        return
    # Every form has checksums over its numbers: what is taken in spite of the damage is what was there.
    assert torch.equal(poison.noise, levels())
    assert poison.withheld is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["good", "now"]
