"""Make data/cifar10-subset, on which the small studies train, of the published CIFAR-10.

Run: python -m engine download cifar10 && python examples/cifar10_subset.py

cifar10_subset.txt names its 4,000 images as CIFAR-10's own files do. Each becomes a PNG, without loss.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10

from engine import plugins
from engine.artifacts.files import atomic_directory
from engine.errors import EngineError
from engine.images import DatasetFault, checksum
from engine.images.presence import data_root
from engine.specfiles import load

NAMES = Path(__file__).with_suffix(".txt")
CHECKSUM = "68b56a9b99b55167185db30f49d64b9e91103875e3f23dc3f05c815f30660a8d"
"""Of mini_cifar, as the committed reports of the small studies say it."""


def main() -> None:
    """Write the folder, and check that it holds what the small studies were run on.

    Raises:
        DatasetMissing: CIFAR-10 is not there, or damaged.
        DatasetFault: it is another CIFAR-10, or the folder is there already.
    """
    root, spec = data_root(), load("datasets", "mini_cifar")
    target = root / spec.path
    if target.exists():
        raise DatasetFault(f"{target.absolute()} is there already; remove it to have it made anew")
    classes = plugins.build("datasets", load("datasets", "cifar10"), root=root).train.class_names
    wanted, written = frozenset(NAMES.read_text(encoding="utf-8").splitlines()), set[str]()
    with atomic_directory(target) as folder:
        for half, label, name, pixels_HWC in images(root):
            path = f"{half}/{classes[label]}/{name}"
            if path not in wanted:
                continue
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_HWC).save(folder / path)
            written.add(path)
        if lacking := sorted(wanted - written):
            raise DatasetFault(
                f"CIFAR-10 lacks {len(lacking)} of the images that {NAMES.name} names: {lacking[0]}, ..."
            )
    if (found := checksum(plugins.build("datasets", spec, root=root))) != CHECKSUM:
        raise DatasetFault(f"{target.absolute()} holds other images than the studies' (checksum {found}); remove it")
    sys.stdout.write(f"{target}: {len(written):,} images, those of the committed reports\n")


def images(root: Path) -> Iterator[tuple[str, int, str, np.ndarray]]:
    """Yield half, label, file name and pixels of every image, of files that torchvision has found to be undamaged."""
    for half, files in (("train", CIFAR10.train_list), ("test", CIFAR10.test_list)):
        for name, _ in files:
            batch = pickle.loads((root / CIFAR10.base_folder / name).read_bytes(), encoding="latin1")
            rows = np.asarray(batch["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            yield from zip([half] * len(rows), batch["labels"], batch["filenames"], rows, strict=True)


if __name__ == "__main__":
    try:
        main()
    except EngineError as error:
        sys.exit(f"error: {error}")
