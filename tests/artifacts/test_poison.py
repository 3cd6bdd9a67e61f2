"""The poisoned data set survives its way to disk, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.artifacts import (
    ArtifactError,
    encoded_images,
    read_images,
    read_manifest,
    read_poison,
    read_some,
    write_poison,
)
from engine.perturbation import poison_u8, quantize_levels
from engine.protocols import ImageSet, Poison


def write(
    folder: Path, *, seed: int = 0, count: int = 6, epsilon: float = 8 / 255, withheld: torch.Tensor | None = None
) -> tuple[ImageSet, torch.Tensor]:
    """Write a random poison and return what was released and the levels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    clean = ImageSet(pixels, torch.arange(count) % 3, ("cat", "dog", "tree"))
    delta = torch.empty(clean.images_u8.shape).uniform_(-epsilon, epsilon, generator=generator)
    released = ImageSet(poison_u8(pixels, delta, epsilon=epsilon), clean.labels, clean.class_names)
    levels = quantize_levels(delta, epsilon=epsilon)
    about, poison = {"epsilon": epsilon}, Poison(levels, "sample", 5, unit=1 / 255, withheld=withheld)
    perturbed = torch.arange(count) % 2 == 0
    write_poison(folder, clean=clean, released=released, poison=poison, perturbed=perturbed, about=about)
    return released, levels


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), count=st.integers(3, 9))
def test_what_is_read_is_what_was_written(seed: int, count: int) -> None:
    released, levels = write(Path("poison"), seed=seed, count=count)
    back = read_poison(Path("poison"))
    assert torch.equal(back.images.images_u8, released.images_u8)
    assert torch.equal(back.images.labels, released.labels)
    assert back.images.class_names == released.class_names
    assert torch.equal((back.poison.delta() * 255).round().to(torch.int8), levels)
    assert back.perturbed.tolist() == [index % 2 == 0 for index in range(count)]
    assert back.rows.tolist() == list(range(count))
    assert (back.poison.granularity, back.poison.image_views) == ("sample", 5)
    assert "withheld" not in back.manifest


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), min_size=4, max_size=12).filter(lambda flags: not all(flags)))
def test_what_is_withheld_is_not_released_and_the_others_keep_their_places(flags: list[bool]) -> None:
    withheld = torch.tensor(flags)
    released, levels = write(Path("poison"), count=len(flags), withheld=withheld)
    back, kept = read_poison(Path("poison")), [row for row, flag in enumerate(flags) if not flag]
    assert back.rows.tolist() == kept
    assert torch.equal(back.images.images_u8, released.images_u8[kept])
    assert torch.equal(back.images.labels, released.labels[kept])
    assert back.perturbed.tolist() == [row % 2 == 0 for row in kept]
    assert torch.equal((back.poison.delta() * 255).round().to(torch.int8), levels)
    manifest = back.manifest
    assert (manifest["images"], manifest["withheld"]) == (len(kept), sum(flags))
    assert manifest["perturbed"] == sum(row % 2 == 0 for row in kept)
    assert sum(len(labels) for _, labels in encoded_images(Path("poison"))) == len(kept)
    shown = load_file("poison/preview.safetensors")["poisoned"]
    first = [next(row for row in kept if released.labels[row] == label) for label in released.labels[kept].unique()]
    assert torch.equal(shown, released.images_u8[first])


def test_the_manifest_measures_the_largest_difference() -> None:
    write(Path("poison"), count=9)
    manifest = read_poison(Path("poison")).manifest
    assert manifest["max_difference_levels"] == 8
    assert (manifest["images"], manifest["perturbed"]) == (9, 5)


def test_the_same_inputs_give_the_same_bytes() -> None:
    write(Path("one"))
    write(Path("two"))
    files = sorted(file.name for file in Path("one").iterdir())
    assert files == ["delta.safetensors", "manifest.json", "preview.safetensors", "train.parquet"]
    for name in files:
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes(), name


@pytest.mark.parametrize(("count", "parts"), [(6, [6]), (20, [10, 10]), (23, [10, 10, 3])])
def test_images_are_written_and_read_in_parts(count: int, parts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.artifacts.poison.ROWS", 10)
    released, _ = write(Path("poison"), count=count)
    with pq.ParquetFile("poison/train.parquet") as file:
        assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == parts
        assert file.read(columns=["index"])["index"].to_pylist() == list(range(count))
    read = list(encoded_images(Path("poison")))
    assert [(len(encoded), len(labels)) for encoded, labels in read] == [(part, part) for part in parts]
    assert {png[:4] for encoded, _ in read for png in encoded} == {b"\x89PNG"}
    images = read_images(Path("poison"), read_manifest(Path("poison")))
    assert torch.equal(images.images_u8, released.images_u8)
    assert torch.equal(images.labels, released.labels)
    assert images.class_names == released.class_names


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 12), min_size=1), st.integers(2, 20))
def test_some_images_are_read_with_their_places(chosen: set[int], part: int) -> None:
    withheld = torch.zeros(17, dtype=torch.bool)
    withheld[[0, 5, 6, 16]] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.artifacts.poison.ROWS", part)
        released, _ = write(Path("poison"), count=17, withheld=withheld)
    kept, rows = [row for row in range(17) if not withheld[row]], sorted(chosen)
    images_u8, places = read_some(Path("poison"), torch.tensor(rows))
    assert places.tolist() == [kept[row] for row in rows]
    assert torch.equal(images_u8, released.images_u8[places])


@pytest.mark.parametrize("name", ["train.parquet", "delta.safetensors", "preview.safetensors"])
def test_one_flipped_bit_is_noticed(name: str) -> None:
    write(Path("poison"))
    file = Path("poison") / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} differs from the checksum"):
        read_poison(Path("poison"))


def test_a_missing_file_and_a_missing_manifest_are_named() -> None:
    write(Path("poison"))
    Path("poison/delta.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"delta\.safetensors is missing"):
        read_poison(Path("poison"))
    Path("poison/manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json does not exist"):
        read_poison(Path("poison"))


def test_an_unknown_format_is_refused() -> None:
    write(Path("poison"))
    file = Path("poison/manifest.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ArtifactError, match="format 99"):
        read_poison(Path("poison"))


def test_hugging_face_datasets_decodes_the_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    datasets = pytest.importorskip("datasets")
    released, _ = write(Path("poison"))
    read = datasets.Dataset.from_parquet("poison/train.parquet", cache_dir=str(tmp_path / "cache"))
    assert read.features["label"].names == ["cat", "dog", "tree"]
    assert read[4]["image"].size == (8, 8)
    pixels = torch.tensor(list(read[4]["image"].tobytes()), dtype=torch.uint8).view(8, 8, 3).permute(2, 0, 1)
    assert torch.equal(pixels, released.images_u8[4])
    assert read["index"][:] == list(range(6))
