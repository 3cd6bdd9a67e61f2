"""Damaged releases of every form: a clear error, or what was in them; never anything else, and nothing is executed.

Once damaged as files are, and once as a forger would: below the checksums, which are right again. Other noise may then
come out, as it may stand in any file, but inside the budget.

``ENGINE_FUZZ=1000 pytest tests/importing/test_damage.py`` tries a thousand of each form.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from engine.importing import ImportFault, poison_of, read
from engine.protocols import Poison
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


@st.composite
def forged(draw: st.DrawFn, good: bytes) -> bytes:
    """Damage a part of a file, and write the file around it as it should be."""
    if good.startswith(b"\x89PNG"):
        return draw(forged_png(good))
    if zipfile.is_zipfile(io.BytesIO(good)):
        return draw(forged_zip(good))
    return draw(forged_tar(good))


@st.composite
def forged_png(draw: st.DrawFn, good: bytes) -> bytes:
    parts, at = [], 8
    while at < len(good):
        (size,) = struct.unpack_from(">I", good, at)
        parts.append(good[at + 4 : at + 8 + size])
        at += 12 + size
    chosen = draw(st.integers(0, len(parts) - 1))
    parts[chosen] = draw(damaged(parts[chosen]))
    chunks = (struct.pack(">I", max(0, len(part) - 4)) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return good[:8] + b"".join(chunks)


@st.composite
def forged_zip(draw: st.DrawFn, good: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        heads = [name for name in names if name.endswith((".pkl", ".npy"))]
        chosen = draw(st.sampled_from(heads * 4 + names))
        for name in names:
            content = old.read(name)
            if name == chosen:
                # The head of an array is where it says what it is; random places would mostly be in its numbers.
                cut = 128 if name.endswith(".npy") and draw(st.booleans()) else len(content)
                content = draw(damaged(content[:cut])) + content[cut:]
            new.writestr(name, content)
    return buffer.getvalue()


@st.composite
def forged_tar(draw: st.DrawFn, good: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(good)) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        members = old.getmembers()
        chosen = draw(st.integers(0, len(members) - 1))
        for place, member in enumerate(members):
            stream = old.extractfile(member)
            assert stream is not None
            content = stream.read()
            if place == chosen and draw(st.booleans()):
                member.name = draw(
                    st.sampled_from([members[0].name, "40.png", "x.cls", "../7.png", "1.2.png", "٣.png"])
                )
            elif place == chosen:
                content = draw(forged_png(content) if member.name.endswith("png") else damaged(content))
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


MANY = settings(
    max_examples=EXAMPLES,
    derandomize="ENGINE_FUZZ" not in os.environ,  # the same cases every day; others are looked for on purpose
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def copy_of(form: str, place: Path) -> tuple[Path, list[Path]]:
    """Return a whole release of a form, to be damaged, and its files."""
    _, name, write = FORMS[form]
    if not (place / "good").exists():
        (place / "good").mkdir()
        write(place / "good" / name)
    source = place / "now" / name
    shutil.rmtree(source.parent, ignore_errors=True)
    shutil.copytree(place / "good", source.parent)
    return source, [source] if source.is_file() else sorted(file for file in source.rglob("*") if file.is_file())


def take(source: Path, layout: str) -> Poison | None:
    """Return the poison, or nothing where there is a clear error; no file is made and no other error raised."""
    clean = clean_images()
    try:
        poison = poison_of(read(source, layout, clean), clean, epsilon=EPSILON)
        event("taken")
        return poison
    except ImportFault as fault:
        event("told")
        assert str(source) in str(fault)
        return None
    finally:
        assert sorted(entry.name for entry in source.parents[1].iterdir()) == ["good", "now"]


@pytest.mark.parametrize("form", FORMS)
@MANY
@given(data=st.data())
def test_damage_is_told_or_harmless(form: str, data: st.DataObject, tmp_path: Path) -> None:
    source, files = copy_of(form, tmp_path)
    victim = files[data.draw(st.integers(0, len(files) - 1))]
    victim.write_bytes(data.draw(damaged(victim.read_bytes())))
    poison = take(source, FORMS[form][0])
    if poison is not None:
        # Every form has checksums over its numbers: what is taken in spite of the damage is what was there.
        assert torch.equal(poison.noise, levels())
        assert poison.withheld is None


@pytest.mark.parametrize("form", FORMS)
@MANY
@given(data=st.data())
def test_forgery_is_told_or_inside_the_budget(form: str, data: st.DataObject, tmp_path: Path) -> None:
    source, files = copy_of(form, tmp_path)
    victim = files[data.draw(st.integers(0, len(files) - 1))]
    victim.write_bytes(data.draw(forged(victim.read_bytes())))
    poison = take(source, FORMS[form][0])
    if poison is not None:
        assert poison.noise.shape == levels().shape
        assert poison.noise.dtype == torch.int8
        assert poison.noise.int().abs().max() <= 8
        assert (poison.withheld, poison.granularity, poison.unit) == (None, "sample", 1 / 255)
