"""A poisoned data set is checked against its manifest and its source; every kind of damage is told."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from engine.analysis import psnr, ssim
from engine.artifacts import read_manifest, read_poison
from engine.artifacts.encoding import Encoded, decode, table_of, to_png
from engine.artifacts.files import sha256
from engine.cli import app
from engine.protocols import Split
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.inputs import load_dataset
from engine.study import poison_path
from engine.verifying import survive, verify
from engine.verifying.reencoding import CHANGES, change

SURROGATE = (
    "surrogate:\n  kind: simclr\n  backbone: {kind: resnet18, width: 4, stages: [1]}\n  views: {size: 8}\n"
    "  batch_size: 16\n"
)
SPECS = {
    "datasets/few": "kind: digits\nimage_size: 8\ntrain_per_class: 6\ntest_per_class: 1\n",
    "attacks/all": "kind: random_noise\nepsilon: 16/255\n",
    "attacks/class": "kind: random_noise\nepsilon: 16/255\ngranularity: class\n",
    "attacks/some": "kind: random_noise\nepsilon: 16/255\npoison_fraction: 0.5\n",
    "attacks/truncated": "kind: random_noise\nepsilon: 16/255\nquantization: truncate\n",
    "attacks/rest": "kind: clean_remainder\npoison_fraction: 0.5\n",
    "attacks/none": "kind: clean\n",
    "attacks/cp": "kind: contrastive_poisoning\nepsilon: 32/255\ngranularity: sample\nrounds: 8\nmodel_steps: 4\n"
    f"noise_steps: 4\npgd_steps: 2\n{SURROGATE}",
    "layouts/local": "kind: local\ndevice: cpu\n",
}


@pytest.fixture
def make(project: Path) -> Callable[[str], Path]:
    for name, text in SPECS.items():
        (project / f"specs/{name}.yaml").write_text(text)

    def made(attack: str) -> Path:
        return dispatch(generate_job("few", attack, attack, "zero", "fp32"), "local")

    return made


def clean() -> Split:
    return load_dataset("few")[1]


def failures(folder: Path, split: Split | None) -> dict[str, str]:
    return {check.name: check.found for check in verify(folder, split).checks if check.status == "failed"}


def edit(folder: Path, how: Callable[[Encoded], Encoded]) -> None:
    """Change rows of the table, and give the manifest the new checksum, as a forger would."""
    file = folder / "train-00000.parquet"
    table = table_of(how(Encoded.of(pq.read_table(file))), tuple(read_manifest(folder)["class_names"]))
    pq.write_table(table, file, compression="none")
    seal(folder)


def seal(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def repainted(part: Encoded, row: int, level: int) -> Encoded:
    pixels = np.asarray(Image.open(io.BytesIO(part.png[row]))).copy()
    pixels[0, 0, 0] = level
    png = [to_png(pixels) if at == row else old for at, old in enumerate(part.png)]
    return Encoded(png, part.labels, part.places, part.perturbed)


@pytest.mark.parametrize("attack", ["all", "class", "some", "truncated", "rest", "none", "cp"])
def test_what_the_engine_makes_is_right(make: Callable[[str], Path], attack: str) -> None:
    found = verify(make(attack), clean())
    assert found.is_good, found.checks
    names = [check.name for check in found.checks]
    assert names[:2] == ["files", "rows"]
    assert {"source", "budget", "labels", "untouched images", "duplicates"} <= set(names)
    assert ("noise" in names) == (attack != "truncated")


def test_what_is_measured_is_what_the_images_say(make: Callable[[str], Path]) -> None:
    folder = make("some")
    found, poison, source = verify(folder, clean()).measured, read_poison(folder), clean().train
    before, after = source.images_u8[poison.perturbed], poison.images.images_u8[poison.perturbed]
    difference = (after.int() - before.int()).abs()
    assert found["max_difference_levels"] == difference.max() == 16
    assert found["psnr_mean"] == pytest.approx(psnr(before / 255, after / 255).mean().item(), abs=1e-3)
    assert found["ssim_min"] == pytest.approx(ssim(before / 255, after / 255).min().item(), abs=1e-3)


def test_without_the_clean_images_nothing_is_called_right(make: Callable[[str], Path]) -> None:
    found = verify(make("all"), None)
    assert not found.is_good
    assert {check.status for check in found.checks if check.name in ("budget", "labels")} == {"not checked"}
    assert failures(make("all"), None) == {}


def test_other_clean_images_are_noticed(make: Callable[[str], Path], project: Path) -> None:
    folder = make("all")
    (project / "specs/datasets/few.yaml").write_text(SPECS["datasets/few"].replace("6", "7"))
    found = {check.name: check for check in verify(folder, clean()).checks}
    assert found["budget"].status == "not checked"
    assert "other images" in found["source"].found


def test_a_pixel_beyond_the_budget_is_named(make: Callable[[str], Path]) -> None:
    folder = make("all")
    level = 255 if clean().train.images_u8[3, 0, 0, 0] < 128 else 0
    edit(folder, lambda part: repainted(part, 3, level))
    found = failures(folder, clean())
    assert found["budget"] == "1 images differ by more than 16 grey levels: 3"
    assert found["noise"] == "1 images are not the source plus the noise: 3"
    assert "the largest difference is" in found["manifest"]


def test_a_change_inside_the_budget_is_still_not_the_noise(make: Callable[[str], Path]) -> None:
    folder = make("none")
    level = int(clean().train.images_u8[5, 0, 0, 0])
    edit(folder, lambda part: repainted(part, 5, level + 1 if level < 255 else level - 1))
    assert set(failures(folder, clean())) == {"budget", "noise", "manifest"}  # a budget of nothing


def test_exchanged_labels_are_named(make: Callable[[str], Path]) -> None:
    folder = make("all")
    edit(folder, lambda part: Encoded(part.png, [part.labels[0] ^ 1, *part.labels[1:]], part.places, part.perturbed))
    assert failures(folder, clean()) == {"labels": "1 images have another label than the source: 0"}


def test_an_untouched_image_that_was_touched_is_named(make: Callable[[str], Path]) -> None:
    folder = make("all")
    edit(folder, lambda part: Encoded(part.png, part.labels, part.places, [False, *part.perturbed[1:]]))
    found = failures(folder, clean())
    assert found["untouched images"] == "1 images are said to be untouched and differ: 0"
    assert "59 perturbed" in found["rows"]


def test_another_order_and_a_missing_image_are_named(make: Callable[[str], Path]) -> None:
    folder = make("all")
    edit(
        folder,
        lambda part: Encoded(
            *(list(reversed(column)) for column in (part.png, part.labels, part.places)), part.perturbed
        ),
    )
    assert "in rising order" in failures(folder, None)["rows"]
    edit(folder, lambda part: Encoded(part.png[1:], part.labels[1:], part.places[1:], part.perturbed[1:]))
    assert failures(folder, None)["rows"].startswith("59 images")


def test_the_same_image_twice_is_told(make: Callable[[str], Path]) -> None:
    folder = make("all")
    edit(folder, lambda part: Encoded([part.png[1], *part.png[1:]], part.labels, part.places, part.perturbed))
    duplicates = next(check for check in verify(folder, None).checks if check.name == "duplicates")
    assert duplicates.found == "1 images are the same as another: 0 and 1"


def test_another_fraction_than_declared_is_told(make: Callable[[str], Path]) -> None:
    folder = make("some")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["attack"]["spec"]["poison_fraction"] = 0.9
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert failures(folder, clean()) == {"fraction": "50.0% of the images are perturbed; the attack says 90.0%"}


def test_damage_is_named_and_nothing_more_is_looked_at(make: Callable[[str], Path]) -> None:
    folder = make("all")
    content = bytearray((folder / "delta-00000.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "delta-00000.safetensors").write_bytes(content)
    found = verify(folder, clean())
    assert [(check.name, check.status) for check in found.checks] == [("files", "failed")]
    assert "delta-00000.safetensors differs from the checksum" in found.checks[0].found


def test_the_command_prints_a_report_and_its_status_is_for_machines(make: Callable[[str], Path]) -> None:
    folder, run = make("all"), CliRunner().invoke
    done = run(app, ["verify", str(folder)])
    assert done.exit_code == 0, done.output
    assert "no pixel differs by more than 16 grey levels" in done.output
    assert "PSNR, mean (dB)" in done.output
    record = json.loads(run(app, ["verify", str(folder), "--json"]).output)
    assert record["good"] is True
    edit(folder, lambda part: Encoded(part.png, [part.labels[0] ^ 1, *part.labels[1:]], part.places, part.perturbed))
    done = run(app, ["verify", str(folder)])
    assert (done.exit_code, "FAILED" in done.output) == (1, True)


def test_the_command_says_that_the_source_is_not_here(make: Callable[[str], Path], project: Path) -> None:
    folder = make("all")
    (project / "specs/datasets/few.yaml").unlink()
    done = CliRunner().invoke(app, ["verify", str(folder)])
    assert done.exit_code == 1
    assert "give their data set with --dataset" in done.output


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_gives_images_of_the_same_shape_and_leaves_flat_ones_alone(name: str) -> None:
    images = torch.full((2, 3, 12, 10), 128, dtype=torch.uint8)
    after = change(images, CHANGES[name])
    assert (after.shape, after.dtype) == (images.shape, torch.uint8)
    assert (after.int() - 128).abs().max() <= 1


def test_a_change_is_pillows_own() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(images[2].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=50)
    assert torch.equal(change(images, CHANGES["JPEG 50"])[2], decode([buffer.getvalue()])[0])


def test_what_survives_is_told_for_every_change(make: Callable[[str], Path]) -> None:
    folder = make("cp")
    rows = {row.change: row for row in survive(folder, read_manifest(folder), clean())}
    assert list(rows) == ["unchanged", *CHANGES]
    unchanged = rows["unchanged"]
    assert (unchanged.norm, unchanged.aligned, unchanged.effect) == (1, 1, 1)
    assert unchanged.loss_gap is not None
    gap, error = unchanged.loss_gap
    assert gap > 3 * error > 0  # the noise lowers the loss that it was learnt to lower
    assert rows["cropped to 90%"].aligned is None
    kept = [rows[name].aligned for name in ("JPEG 90", "JPEG 75", "JPEG 50")]
    assert kept == sorted(kept, reverse=True)
    assert all(0 < row.norm < 2 for row in rows.values())
    left = rows["JPEG 50"].loss_gap
    assert left is not None
    assert rows["JPEG 50"].effect == pytest.approx(left[0] / gap, abs=1e-3)


def test_noise_that_no_network_made_has_no_effect_on_one(make: Callable[[str], Path]) -> None:
    folder = make("all")
    rows = survive(folder, read_manifest(folder), clean())
    assert {(row.loss_gap, row.effect) for row in rows} == {(None, None)}
    done = CliRunner().invoke(app, ["verify", str(folder), "--survive"])
    assert done.exit_code == 0
    assert "there is no surrogate" in done.output


def test_a_poison_that_perturbs_nothing_has_nothing_to_survive(make: Callable[[str], Path]) -> None:
    make("none")
    done = CliRunner().invoke(app, ["verify", str(poison_path("few", "rest"))])
    assert done.exit_code == 1
    assert "no poisoned data set" in str(done.exception)
