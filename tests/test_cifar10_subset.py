"""The images of the small studies come out of the published files, to the bit; those are imitated with real images."""

from __future__ import annotations

import json
import pickle
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from engine.images import DatasetFault, DatasetMissing
from tests.datasets.test_published import md5

PROJECT = Path(__file__).parents[1]
SCRIPT = PROJECT / "examples/cifar10_subset.py"
REPORT = PROJECT / "reports/mini/table1/study.json"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def root(project: Path, cifar_subset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with files as CIFAR-10 has them, of the real images that are here, and of some more."""
    root, folder = project / "data", project / "data" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    classes = sorted(path.name for path in (cifar_subset / "train").iterdir())
    for half, attribute, count in (("train", "train_list", 3), ("test", "test_list", 1)):
        files = sorted((cifar_subset / half).rglob("*.png"), key=lambda file: file.name)  # of all classes, mixed
        listed = []
        for place, (name, _) in enumerate(getattr(CIFAR10, attribute)[:count]):
            own = files[place::count]
            batch = {
                "data": np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1).reshape(-1) for file in own]),
                "labels": [classes.index(file.parent.name) for file in own],
                "filenames": [file.name for file in own],
            }
            (folder / name).write_bytes(pickle.dumps(batch, 2))
            listed.append([name, md5(folder / name)])
        monkeypatch.setattr(CIFAR10, attribute, listed)
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({CIFAR10.meta["key"]: classes}, 2))
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / CIFAR10.meta["filename"])})
    return root


def test_the_folder_holds_the_images_of_the_committed_reports(
    root: Path, script: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script["CHECKSUM"] == json.loads(REPORT.read_text())["provenance"]["dataset_checksum"]
    script["main"]()
    assert capsys.readouterr().out == "data/cifar10-subset: 4,000 images, those of the committed reports\n"
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py", "cifar10-subset"]
    with pytest.raises(DatasetFault, match="is there already; remove it"):
        script["main"]()


def test_an_image_that_is_not_there_is_named_and_nothing_is_left(root: Path, script: dict[str, Any]) -> None:
    names = root.parent / "names.txt"
    names.write_text(script["NAMES"].read_text() + "train/cat/no_cat_s_000001.png\n")
    script["main"].__globals__["NAMES"] = names
    with pytest.raises(DatasetFault, match=r"lacks 1 of the images that names\.txt names: train/cat/no_cat_s_000001"):
        script["main"]()
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]


def test_without_cifar10_it_says_how_to_get_it(project: Path, script: dict[str, Any]) -> None:
    with pytest.raises(DatasetMissing, match="python -m engine download cifar10"):
        script["main"]()
