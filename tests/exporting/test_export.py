"""Exports are read by those whom they are for, and hold the artifact's pixels."""

from __future__ import annotations

import dataclasses
import gc
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner

from engine.artifacts import ArtifactError, read_poison, write_poison
from engine.cli import app
from engine.exporting import export, known_forms
from engine.perturbation import add_poison
from engine.protocols import ImageSet, Poison
from tests.making import about

COUNT, CLASSES = 30, ("cat", "dog", "tree")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(
    names: tuple[str, ...] = (), *, granularity: str = "sample", withheld: bool = False, clean: int = 0
) -> tuple[ImageSet, torch.Tensor]:
    """Write a poison; return the images before it, and the noise in grey levels."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(20, 230, (COUNT, 3, 8, 9), generator=draws, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(COUNT) % 3, CLASSES, names)
    levels = torch.randint(-8, 9, (COUNT if granularity == "sample" else 3, 3, 8, 9), generator=draws).to(torch.int8)
    perturbed = torch.arange(COUNT) >= clean
    added = (levels if granularity == "sample" else levels[images.labels]) * perturbed[:, None, None, None]
    released = dataclasses.replace(images, images_u8=(pixels.int() + added).to(torch.uint8))
    kept_out = torch.arange(COUNT) % 10 == 3 if withheld else None
    poison = Poison(levels, granularity, unit=1 / 255, withheld=kept_out)  # type: ignore[arg-type]
    write_poison(Path("poison"), clean=images, released=released, poison=poison, perturbed=perturbed, about=about())
    return images, levels


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def bytes_of(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("withheld", [False, True])
def test_torchvision_reads_the_folder_and_the_pixels_are_the_artifacts(withheld: bool) -> None:
    write(withheld=withheld)
    export(Path("poison"), "imagefolder", Path("out"))
    folder, poison = ImageFolder("out"), read_poison(Path("poison"))
    assert folder.classes == list(CLASSES)
    assert len(folder) == len(poison.images) == (27 if withheld else 30)
    places = {int(Path(file).stem): (file, label) for file, label in folder.samples}
    for row, place in enumerate(poison.rows.tolist()):
        file, label = places[place]
        assert label == poison.images.labels[row]
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert torch.equal(pixels_of(image), poison.images.images_u8[row])


def test_files_keep_the_names_of_their_originals() -> None:
    names = tuple(f"{CLASSES[row % 3]}/holiday {row}.JPG" for row in range(COUNT))
    write(names)
    export(Path("poison"), "imagefolder", Path("out"))
    found = sorted(file.relative_to("out").as_posix() for file in Path("out").rglob("*.png"))
    assert found == sorted(name.replace(".JPG", ".png") for name in names)
    assert "lossless PNG" in Path("out/README.md").read_text()
    assert "EXIF" in Path("out/README.md").read_text()


def test_names_that_would_meet_keep_their_endings() -> None:
    names = ["cat/a.jpg", "dog/b.jpg", "tree/c.jpg", "cat/a.png", "dog/sub/b.jpg", "tree/c.jpeg"]
    write((*names, *(f"{CLASSES[row % 3]}/{row}.png" for row in range(6, COUNT))))
    export(Path("poison"), "imagefolder", Path("out"))
    found = {file.relative_to("out").as_posix() for file in Path("out").rglob("*.png")}
    assert {"cat/a.jpg.png", "cat/a.png.png", "dog/b.png", "dog/sub/b.png", "tree/c.jpg.png"} <= found
    assert len(found) == COUNT


@pytest.mark.parametrize("name", ["cat/../../secret.png", "cat/..", "/"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    write((name, *(f"cat/{row}.png" for row in range(1, COUNT))))
    with pytest.raises(ArtifactError, match="leads out of its folder"):
        export(Path("poison"), "imagefolder", Path("out"))
    assert not Path("out").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_webdataset_streams_the_images_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.exporting.forms.webdataset.MOST", 12)
    write(tuple(f"{CLASSES[row % 3]}/{row}.jpg" for row in range(COUNT)), withheld=True)
    export(Path("poison"), "webdataset", Path("out"))
    poison = read_poison(Path("poison"))
    shards = sorted(map(str, Path("out").glob("train-*.tar")))
    counts = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            counts.append(len(archive.getnames()) // 3)
    assert counts == [12, 12, 3]
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    gc.collect()
    assert [int(sample["__key__"]) for sample in read] == poison.rows.tolist()
    for row, sample in enumerate(read):
        assert torch.equal(pixels_of(sample["png"]), poison.images.images_u8[row])
        assert sample["cls"] == poison.images.labels[row]
        place = int(poison.rows[row])
        name = CLASSES[place % 3]
        assert sample["json"] == {"index": place, "class": name, "perturbed": True, "name": f"{name}/{place}.jpg"}


def test_numpy_reads_the_arrays_without_pickles() -> None:
    write(withheld=True, clean=5)
    export(Path("poison"), "npz", Path("out.npz"))
    poison = read_poison(Path("poison"))
    with np.load("out.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["class_names", "images", "index", "labels", "perturbed"]
        assert np.array_equal(arrays["images"].transpose(0, 3, 1, 2), poison.images.images_u8.numpy())
        assert arrays["labels"].tolist() == poison.images.labels.tolist()
        assert arrays["index"].tolist() == poison.rows.tolist()
        assert arrays["perturbed"].tolist() == poison.perturbed.tolist()
        assert arrays["class_names"].tolist() == list(CLASSES)


@pytest.mark.parametrize("granularity", ["sample", "class"])
def test_the_official_tensor_added_in_units_of_the_budget_gives_the_images(granularity: str) -> None:
    clean, levels = write(granularity=granularity)
    export(Path("poison"), "official", Path("out.pth"))
    delta = torch.load("out.pth", weights_only=True)
    assert delta.shape == levels.shape
    assert delta.abs().max() <= 1
    added = delta if granularity == "sample" else delta[clean.labels]
    made = add_poison(clean.images_u8 / 255, 8 / 255 * added)
    assert torch.equal((made * 255).round().to(torch.uint8), read_poison(Path("poison")).images.images_u8)


@pytest.mark.parametrize("changes", [{"withheld": True}, {"granularity": "class", "clean": 5}])
def test_what_a_perturbation_cannot_say_is_not_exported_as_one(changes: dict[str, object]) -> None:
    write(**changes)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="cannot say"):
        export(Path("poison"), "official", Path("out.pth"))
    assert not Path("out.pth").exists()


@pytest.mark.parametrize("form", known_forms())
def test_the_same_artifact_gives_the_same_bytes(form: str) -> None:
    write()
    one, two = (bytes_of(export(Path("poison"), form, Path(name))) for name in ("one", "two"))
    assert one == two
    assert one


@pytest.mark.parametrize("form", known_forms())
def test_nothing_is_overwritten(form: str) -> None:
    write()
    Path("out").mkdir()
    Path("out/mine.txt").write_text("kept")
    with pytest.raises(ArtifactError, match="there already"):
        export(Path("poison"), form, Path("out"))
    assert bytes_of(Path("out")) == {"mine.txt": b"kept"}
    with pytest.raises(ArtifactError, match="lies in the poison itself"):
        export(Path("poison"), form, Path("poison/out"))


def test_a_damaged_artifact_and_an_unknown_form_are_refused() -> None:
    write()
    with pytest.raises(ArtifactError, match="known are imagefolder, npz, official, webdataset"):
        export(Path("poison"), "hdf5", Path("out"))
    with Path("poison/train-00000.parquet").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1")
    with pytest.raises(ArtifactError, match="differs from the checksum"):
        export(Path("poison"), "npz", Path("out"))
    assert [file.name for file in Path().iterdir() if file.name != ".work"] == ["poison"]


def test_an_export_may_lie_on_another_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    write()
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path_factory.mktemp("elsewhere")
    target = elsewhere / f"export-{tmp_path_factory.getbasetemp().name}.npz"
    try:
        export(Path("poison"), "npz", target)
        assert target.is_file()
    finally:
        target.unlink(missing_ok=True)


def test_the_commands_export_and_compare() -> None:
    write()
    run = CliRunner().invoke
    assert run(app, ["export", "poison", "npz", "out.npz"]).exit_code == 0
    done = run(app, ["diff", "poison", "poison"])
    assert (done.exit_code, done.output.strip()) == (0, "the same: 30 images, and all that is known of them")
    Path("poison").rename("before")
    write(clean=5)
    manifest = json.loads(Path("poison/manifest.json").read_text())
    manifest["epsilon"] = 4 / 255
    Path("poison/manifest.json").write_text(json.dumps(manifest))
    done = run(app, ["diff", "before", "poison"])
    assert done.exit_code == 1
    assert "epsilon" in done.output
    assert "5 of 30 images differ, by up to 8 grey levels" in done.output
    assert "5 images are perturbed in one only: 0, 1, 2, 3, 4" in done.output
    Path("poison").rename("after")
    write(withheld=True)
    assert "3 images are only in the first" in run(app, ["diff", "before", "poison"]).output
    assert run(app, ["diff", "before", "nowhere"]).exit_code == 2  # trouble is no difference
