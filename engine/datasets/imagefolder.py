"""A folder of image files: any size, any common format and mode, one folder per class.

Name: Image folder
Source: files under ``path``, either ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*`` with
    ``test_fraction``.
Deviations: from torchvision's ImageFolder: the EXIF orientation is applied, transparency is laid over white,
    sixteen-bit grey is scaled to eight, and one error names all files that cannot be read. The shorter side
    is resized to ``image_size`` (Pillow, bilinear, antialiased) and the centre is cut out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from engine.protocols import Progress, Split
from engine.spec import DataPath, DatasetSpec

if TYPE_CHECKING:
    from engine.images import FileSet


class Spec(DatasetSpec):
    """Where the folder is, and how it is cut into halves."""

    kind: Literal["imagefolder"]
    path: DataPath
    # Left out where the folder has train/ and test/; else the part of every class that is held out.
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None


def build(spec: Spec, *, root: Path, download: bool = False, progress: Progress | None = None) -> Split:
    """Read the folder; there is nothing to download.

    Raises:
        DatasetMissing: there is no such folder.
        DatasetFault: it is laid out differently, a class is empty, or files cannot be read.
    """
    from engine.images import decode_split, subset

    train, test = find_halves(root / spec.path, spec.test_fraction, spec.subset_seed)
    return decode_split(
        subset(train, spec.train_per_class, seed=spec.subset_seed, name="train"),
        subset(test, spec.test_per_class, seed=spec.subset_seed, name="test"),
        spec.image_size,
        progress,
    )


def find_halves(folder: Path, test_fraction: float | None, seed: int) -> tuple[FileSet, FileSet]:
    """List the files of the training half and of the test half, whichever layout the folder has."""
    from engine.images import DatasetFault, class_folders, hold_out, list_files, require_folder

    require_folder(folder, holds="train/<class>/ and test/<class>/, or <class>/ alone (then give test_fraction),")
    found = class_folders(folder)
    layout = {"train", "test"} & set(found)
    if test_fraction is None and len(layout) < 2:
        raise DatasetFault(
            f"{folder.absolute()} holds {_some(found)}, expected train/ and test/ with one folder per class each; "
            "if these folders are the classes, give test_fraction (e.g. 0.2)"
        )
    if test_fraction is not None and len(layout) == 2:
        raise DatasetFault(f"{folder.absolute()} has train/ and test/ already; remove test_fraction")
    if test_fraction is not None:
        return hold_out(list_files(folder, found), test_fraction, seed=seed)
    train, test = (class_folders(folder / half) for half in ("train", "test"))
    if train != test:
        differences = [
            f"only in {half}/: {_some(sorted(names))}"
            for half, names in (("train", set(train) - set(test)), ("test", set(test) - set(train)))
            if names
        ]
        raise DatasetFault(
            f"train/ and test/ of {folder.absolute()} must have the same classes; {'; '.join(differences)}; "
            "add or remove these folders"
        )
    return list_files(folder / "train", train), list_files(folder / "test", test)


def _some(names: tuple[str, ...] | list[str], most: int = 20) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
