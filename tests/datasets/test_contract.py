"""What every data set promises that can be built without a download, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from engine import plugins, specfiles
from engine.images import DatasetMissing, checksum
from engine.protocols import ImageSet, Split
from engine.randomness import stream

KINDS = plugins.kinds("datasets")
SIZE = 12

SMALL: dict[str, dict[str, Any]] = {
    "digits": {"test_fraction": 0.5, "train_per_class": 20, "test_per_class": 10},
    "scenes": {"train_per_class": 3, "test_per_class": 2},
    "imagefolder": {"path": "noise", "test_fraction": 0.5},
    "imagenet100": {},
}
"""The smallest settings of each kind that needs no download; the published ones have tests of their own."""
SEEDS = {"digits": "subset_seed", "scenes": "seed", "imagefolder": "subset_seed", "imagenet100": "subset_seed"}
"""The field that each kind's draws depend on."""
SUBSETS = {kind: {"train_per_class": 2, "test_per_class": 1} for kind in SMALL}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a folder of random images and a tiny ImageNet."""
    root = tmp_path_factory.mktemp("data")
    generator = stream(0, "test")
    for folder in ("noise", "imagenet/train", "imagenet/val"):
        for name in ("n01", "n02", "n03"):
            (root / folder / name).mkdir(parents=True)
            for number in range(6):
                pixels = torch.randint(0, 256, (15, 14, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(root / folder / name / f"{number}.png")
    (root / "imagenet100.txt").write_text("n03\nn01\n")
    return root


def spec_of(kind: str, **changes: Any) -> Any:
    values = {"kind": kind, "image_size": SIZE, **SMALL.get(kind, {}), **changes}
    return TypeAdapter(plugins.spec_of("datasets")).validate_python(values)


def build(kind: str, root: Path, **changes: Any) -> Split:
    split: Split = plugins.build("datasets", spec_of(kind, **changes), root=root)
    return split


def halves(split: Split) -> tuple[ImageSet, ImageSet]:
    return split.train, split.test


def test_every_kind_is_either_built_here_or_published() -> None:
    published = {"cifar10", "cifar100", "stl10", "fashion_mnist"}
    assert set(SMALL) | published == set(KINDS)
    assert set(SMALL) == set(SEEDS)


@pytest.mark.parametrize("kind", SMALL)
class TestContract:
    def test_images_are_eight_bit_rgb_of_the_declared_size(self, data: Path, kind: str) -> None:
        for half in halves(build(kind, data)):
            assert half.images_u8.dtype == torch.uint8
            assert half.images_u8.shape == (len(half), 3, SIZE, SIZE)
            assert half.images_u8.is_contiguous()
            assert half.images_u8.float().std() > 10  # something is on them
            assert half.images_u8.max() > 128

    def test_labels_number_the_classes(self, data: Path, kind: str) -> None:
        split = build(kind, data)
        assert split.train.class_names == split.test.class_names
        names = split.train.class_names
        assert len(set(names)) == len(names)
        assert spec_of(kind).num_classes in (None, len(names))
        for half in halves(split):
            assert half.labels.dtype == torch.int64
            assert half.labels.unique().tolist() == list(range(len(names)))

    def test_the_same_spec_gives_the_same_bytes(self, data: Path, kind: str) -> None:
        assert checksum(build(kind, data)) == checksum(build(kind, data))

    def test_another_seed_gives_other_images(self, data: Path, kind: str) -> None:
        one, two = (build(kind, data, **{**SUBSETS[kind], SEEDS[kind]: seed}) for seed in (0, 1))
        assert checksum(one) != checksum(two)

    def test_as_many_images_of_every_class_as_declared(self, data: Path, kind: str) -> None:
        split = build(kind, data, **SUBSETS[kind])
        classes = len(split.train.class_names)
        assert split.train.labels.bincount().tolist() == [2] * classes
        assert split.test.labels.bincount().tolist() == [1] * classes

    def test_no_test_image_is_a_training_image(self, data: Path, kind: str) -> None:
        train, test = ({image.numpy().tobytes() for image in half.images_u8} for half in halves(build(kind, data)))
        assert not train & test

    def test_a_download_changes_nothing_where_nothing_is_missing(self, data: Path, kind: str) -> None:
        downloaded = plugins.build("datasets", spec_of(kind), root=data, download=True)
        assert checksum(downloaded) == checksum(build(kind, data))


@pytest.mark.parametrize("kind", KINDS)
def test_without_files_a_kind_is_built_from_nothing_or_says_what_is_missing(kind: str, tmp_path: Path) -> None:
    try:
        split = build(kind, tmp_path)
    except DatasetMissing as error:
        assert str(tmp_path) in str(error)
    else:
        assert len(split.train) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "value"),
    [("image_size", 7), ("train_per_class", 0), ("std", (0.2, 0.0, 0.2)), ("no_such_field", 1)],
)
def test_a_value_that_makes_no_sense_is_refused(kind: str, field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        spec_of(kind, **{field: value})


def test_the_declared_data_sets_are_valid() -> None:
    specs = {name: specfiles.load("datasets", name) for name in specfiles.names("datasets")}
    assert {"digits", "scenes", "cifar10", "cifar100", "stl10", "fashion_mnist", "imagenet100", "mini_cifar"} <= set(
        specs
    )
    assert specs["cifar10"].std == (0.2023, 0.1994, 0.2010)
    assert specs["mini_cifar"].path == "cifar10-subset"
    for name in specs:
        first, second, *_ = specfiles.file_of("datasets", name).read_text().splitlines()
        assert first == "# yaml-language-server: $schema=../../schemas/datasets.json"
        assert second.startswith("# ")
