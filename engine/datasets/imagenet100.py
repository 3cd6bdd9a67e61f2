"""ImageNet-100: a hundred classes of ImageNet-1k, chosen by a list.

Name: ImageNet-100
Paper: Deng et al., "ImageNet: A Large-Scale Hierarchical Image Database", CVPR 2009; a subset of 100 classes as in
    He, Zha & Katabi, ICLR 2023.
Source: files train/<wnid>/* and val/<wnid>/* under ``path``, and a list with one wnid a line in ``classes``.
Deviations: the classes of He, Zha & Katabi were drawn at random and are not published; the list in common use
    is imagenet100.txt of HobbitLong/CMC (Tian, Krishnan & Isola, ECCV 2020). Images are resized and cut out
    once, before the views: shorter side to ``image_size``, centre.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import RGB, DataPath, DatasetSpec, Scale


class Spec(DatasetSpec):
    """Where ImageNet and the list of classes are."""

    kind: Literal["imagenet100"]
    # Of a hundred random classes, as He, Zha & Katabi round theirs; the list decides.
    whole: ClassVar[tuple[int, int]] = (126_700, 5_000)
    path: DataPath = "imagenet"
    classes: DataPath = "imagenet100.txt"
    image_size: Annotated[int, Field(ge=8)] = 224
    # ImageNet's usual statistics, as in torchvision's models.
    mean: RGB = (0.485, 0.456, 0.406)
    std: Scale = (0.229, 0.224, 0.225)


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Read the listed classes; ImageNet has to be got by hand.

    Raises:
        DatasetMissing: the folder, the list, or a listed class is not there.
        DatasetFault: the list is empty or names a class twice, a class is empty, or files cannot be read.
    """
    from engine.images import decode_split, list_files, require_folder, subset

    folder = require_folder(root / spec.path, holds="ImageNet's train/<wnid>/ and val/<wnid>/ (image-net.org)")
    wnids = read_wnids(root / spec.classes)
    _require_classes(folder, wnids)
    train, test = list_files(folder / "train", wnids), list_files(folder / "val", wnids)
    return decode_split(
        subset(train, spec.train_per_class, seed=spec.subset_seed, name="train"),
        subset(test, spec.test_per_class, seed=spec.subset_seed, name="test"),
        spec.image_size,
        progress,
    )


def read_wnids(file: Path) -> tuple[str, ...]:
    """Return the first word of every line, sorted; empty lines and lines that open with ``#`` are skipped."""
    from engine.images import DatasetFault, DatasetMissing

    if not file.is_file():
        raise DatasetMissing(
            f"there is no class list {file.absolute()}; write one wnid a line into it, e.g. imagenet100.txt of "
            "github.com/HobbitLong/CMC"
        )
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    wnids = [words[0] for words in lines if words and not words[0].startswith("#")]
    twice = sorted({wnid for wnid in wnids if wnids.count(wnid) > 1})
    if twice:
        raise DatasetFault(f"{file.absolute()} names a class more than once: {', '.join(twice)}")
    if not wnids:
        raise DatasetFault(f"{file.absolute()} names no class; write one wnid a line into it")
    return tuple(sorted(wnids))


def _require_classes(folder: Path, wnids: tuple[str, ...]) -> None:
    from engine.images import DatasetMissing

    absent = [f"{half}/{wnid}" for half in ("train", "val") for wnid in wnids if not (folder / half / wnid).is_dir()]
    if absent:
        raise DatasetMissing(
            f"{folder.absolute()} lacks {len(absent)} listed class folders: {', '.join(absent[:20])}"
            + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")
            + "; extract them there, or correct the class list"
        )
