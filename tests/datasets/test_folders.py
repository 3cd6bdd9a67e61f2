"""The folder kinds: layouts, clear errors, and real photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from engine.datasets import imagefolder, imagenet100
from engine.images import DatasetFault, DatasetMissing, checksum, decode_file
from engine.protocols import Split


def fill(folder: Path, count: int, level: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (10, 12), (level, number, 7)).save(folder / f"{number:03}.png")


def halves(root: Path, train: tuple[str, ...] = ("cat", "dog"), test: tuple[str, ...] = ("cat", "dog")) -> None:
    for half, names, count in (("train", train, 5), ("test", test, 3)):
        for level, name in enumerate(names):
            fill(root / "pets" / half / name, count, level)


def read(root: Path, **settings: Any) -> Split:
    spec = imagefolder.Spec(kind="imagefolder", **{"path": "pets", "image_size": 8, **settings})
    return imagefolder.build(spec, root=root)


def test_train_and_test_folders_are_the_halves(tmp_path: Path) -> None:
    halves(tmp_path)
    split = read(tmp_path)
    assert split.train.class_names == split.test.class_names == ("cat", "dog")
    assert split.train.labels.tolist() == [0] * 5 + [1] * 5
    assert split.test.labels.tolist() == [0] * 3 + [1] * 3
    assert split.train.images_u8[:, 0, 0, 0].tolist() == split.train.labels.tolist()
    assert split.train.images_u8[:, 1, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2


def test_a_flat_folder_is_cut_by_class(tmp_path: Path) -> None:
    fill(tmp_path / "pets" / "cat", 10, 0)
    fill(tmp_path / "pets" / "dog", 20, 1)
    split = read(tmp_path, test_fraction=0.2)
    assert split.train.labels.bincount().tolist() == [8, 16]
    assert split.test.labels.bincount().tolist() == [2, 4]
    assert checksum(split) == checksum(read(tmp_path, test_fraction=0.2))
    assert checksum(split) != checksum(read(tmp_path, test_fraction=0.2, subset_seed=1))


def test_a_subset_decodes_no_more_files_than_it_needs(tmp_path: Path) -> None:
    halves(tmp_path)
    told: list[int] = []
    spec = imagefolder.Spec(kind="imagefolder", path="pets", image_size=8, train_per_class=2, test_per_class=1)
    split = imagefolder.build(spec, root=tmp_path, progress=lambda done, total, note: told.append(total))
    assert (len(split.train), len(split.test)) == (4, 2)
    assert set(told) == {6}


def test_an_absolute_path_needs_no_root(tmp_path: Path) -> None:
    halves(tmp_path)
    assert len(read(tmp_path / "elsewhere", path=str(tmp_path / "pets")).train) == 10


@pytest.mark.parametrize("path", ["../pets", "a/../../pets", ""])
def test_a_relative_path_stays_in_the_data_root(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        imagefolder.Spec(kind="imagefolder", path=path, image_size=8)


def test_other_files_and_hidden_ones_are_left_alone(tmp_path: Path) -> None:
    halves(tmp_path)
    (tmp_path / "pets" / "train" / ".cache").mkdir()
    (tmp_path / "pets" / "train" / "cat" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("mine")
    (tmp_path / "pets" / "list.csv").write_text("")
    assert len(read(tmp_path).train) == 10


def test_endings_may_be_upper_case_and_folders_deeper(tmp_path: Path) -> None:
    halves(tmp_path)
    (tmp_path / "pets" / "train" / "cat" / "000.png").rename(tmp_path / "pets" / "train" / "cat" / "ZZ.PNG")
    deeper = tmp_path / "pets" / "train" / "dog" / "images"
    deeper.mkdir()
    (tmp_path / "pets" / "train" / "dog" / "001.png").rename(deeper / "001.png")
    assert len(read(tmp_path).train) == 10


@pytest.mark.parametrize(
    ("prepare", "settings", "fault", "message"),
    [
        (
            lambda root: None,
            {},
            DatasetMissing,
            r"there is no folder .*pets; put train/<class>/ and test/<class>/, or .*there",
        ),
        (lambda root: (root / "pets").write_text(""), {}, DatasetFault, r"pets is a file, expected a folder"),
        (lambda root: (root / "pets").mkdir(), {}, DatasetFault, r"holds no class folders; put images into .*<class>/"),
        (lambda root: fill(root / "pets" / "cat", 2), {}, DatasetFault, r"holds cat, expected .*give test_fraction"),
        (
            halves,
            {"test_fraction": 0.5},
            DatasetFault,
            "has train/ and test/ already; remove test_fraction",
        ),
        (
            lambda root: halves(root, train=("cat", "dog", "fox"), test=("cat", "owl", "dog")),
            {},
            DatasetFault,
            r"same classes; only in train/: fox; only in test/: owl; add or remove",
        ),
        (
            lambda root: (
                [halves(root), *((root / "pets" / "train" / name).mkdir() for name in ("ant", "bee"))]
                + [(root / "pets" / "test" / name).mkdir() for name in ("ant", "bee")]
            ),
            {},
            DatasetFault,
            r"train has class folders without an image file: ant, bee; fill or remove them",
        ),
        (
            halves,
            {"train_per_class": 6},
            DatasetFault,
            r"train_per_class is 6, but some classes have fewer: cat \(5\), dog \(5\)",
        ),
    ],
    ids=["missing", "file", "empty", "flat", "both layouts", "other classes", "empty classes", "small classes"],
)
def test_errors_say_what_where_and_what_to_do(
    tmp_path: Path, prepare: Any, settings: dict[str, Any], fault: type[Exception], message: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(fault, match=message):
        read(tmp_path, **settings)


def test_broken_files_of_both_halves_are_named_together(tmp_path: Path) -> None:
    halves(tmp_path)
    broken = [tmp_path / "pets" / "train" / "cat" / "bad.jpg", tmp_path / "pets" / "test" / "dog" / "bad.webp"]
    for file in broken:
        file.write_bytes(b"no image")
    with pytest.raises(DatasetFault) as caught:
        read(tmp_path)
    assert all(str(file) in str(caught.value) for file in broken)


def imagenet(root: Path, wnids: list[str]) -> None:
    for half, count in (("train", 3), ("val", 2)):
        for level, wnid in enumerate(wnids):
            fill(root / "imagenet" / half / wnid, count, level)


def read_imagenet(root: Path) -> Split:
    return imagenet100.build(imagenet100.Spec(kind="imagenet100", image_size=8), root=root)


def test_imagenet_is_cut_to_the_listed_classes(tmp_path: Path) -> None:
    imagenet(tmp_path, ["n01", "n02", "n03"])
    (tmp_path / "imagenet100.txt").write_text("# mine\nn03 hen\n\nn01\n")
    split = read_imagenet(tmp_path)
    assert split.train.class_names == ("n01", "n03")
    assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.train.images_u8[:, 0, 0, 0].tolist() == [0, 0, 0, 2, 2, 2]
    assert len(split.test) == 4


@pytest.mark.parametrize(
    ("text", "fault", "message"),
    [
        (None, DatasetMissing, "there is no class list .*imagenet100.txt; write one wnid a line"),
        ("\n# nothing\n", DatasetFault, "names no class"),
        ("n01\nn02\nn01\n", DatasetFault, "more than once: n01"),
        ("n01\nn08\nn09\n", DatasetMissing, r"lacks 4 listed class folders: train/n08, train/n09, val/n08, val/n09;"),
    ],
)
def test_faults_of_the_class_list_are_named(
    tmp_path: Path, text: str | None, fault: type[Exception], message: str
) -> None:
    imagenet(tmp_path, ["n01", "n02"])
    if text is not None:
        (tmp_path / "imagenet100.txt").write_text(text)
    with pytest.raises(fault, match=message):
        read_imagenet(tmp_path)


def test_a_missing_imagenet_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match=r"no folder .*imagenet; put ImageNet's train/<wnid>/"):
        read_imagenet(tmp_path)


def test_real_photographs_are_read(cifar_subset: Path) -> None:
    split = read(cifar_subset.parent, path=cifar_subset.name, image_size=32, train_per_class=20, test_per_class=10)
    assert split.train.labels.bincount().tolist() == [20] * 10
    assert split.test.labels.bincount().tolist() == [10] * 10
    assert split.train.class_names[:3] == ("airplane", "automobile", "bird")
    means = (split.train.images_u8.float() / 255).mean(dim=(0, 2, 3))
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.06, rtol=0)
    name = next((cifar_subset / "train" / "airplane").iterdir()).name
    assert name.endswith(".png")


def test_a_program_called_an_image_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "harmless.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(UnidentifiedImageError):
        decode_file(file, 8)
