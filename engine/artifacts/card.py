"""The data card of a poisoned data set: the README that the Hugging Face Hub and people read."""

from __future__ import annotations

from typing import Any

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

CARD = """\
---
pretty_name: {name}
task_categories:
- image-classification
size_categories:
- {size}
tags:
- availability-poisoning
- unlearnable-examples
- contrastive-learning
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.parquet
---

# {name}: a poisoned copy of {dataset}

**The images carry a perturbation that is meant to make whatever is learnt from them useless.** {what}

| | |
|---|---|
| source | {dataset}, {source} |
| attack | {attack} (`{kind}`), {granularity} |
| budget | {budget:.4g}/255, largest difference {largest}/255, on average {mean:.3g}/255 |
| images | {images:,} of {height} x {width} pixels, {classes} classes; {perturbed:,} perturbed{withheld} |
| labels | unchanged |

## Read it

```python
from datasets import load_dataset

images = load_dataset("path/to/this/folder", split="train")
images[0]["image"], images[0]["label"], images[0]["index"], images[0]["perturbed"]
```

`index` is an image's place in the source data set, `perturbed` says whether noise was added to it. The files
`delta-*.safetensors` hold the noise in grey levels: int8, {shape}.
Everything that is known of the making, and every file's checksum, is in `manifest.json`.

## Use and limits

Made for research on the defence against such poison, and for owners who do not want their images to be trained on. The
effect is on training from random weights; pretrained networks, adversarial training and purification weaken it. The
rights in the images are those of the source data set.
"""


def card(manifest: dict[str, Any]) -> str:
    """Return the data card that goes with a manifest, which needs no checksums yet."""
    channels, height, width = manifest["image_shape"]
    images, perturbed, withheld = manifest["images"], manifest["perturbed"], manifest.get("withheld")
    classes, is_class_wise = len(manifest["class_names"]), manifest["granularity"] == "class"
    rows = classes if is_class_wise else images + (withheld or 0)
    return CARD.format(
        name=manifest["name"],
        size=next((name for most, name in SIZES if images < most), "n>1M"),
        dataset=manifest["dataset"]["name"],
        source=f"checksum of its images and labels `{manifest['dataset']['checksum'][:16]}...`",
        what="Nothing was added to this copy." if not manifest["max_difference_levels"] else "The labels are true.",
        attack=manifest["attack"]["name"],
        kind=manifest["attack"]["spec"].get("kind", "unknown"),
        granularity="one perturbation a class" if is_class_wise else "one perturbation an image",
        budget=255 * manifest["epsilon"],
        largest=manifest["max_difference_levels"],
        mean=manifest["mean_difference_levels"],
        images=images,
        height=height,
        width=width,
        classes=classes,
        perturbed=perturbed,
        withheld=f"; {withheld:,} of the source are not released" if withheld else "",
        shape=f"[{rows}, {channels}, {height}, {width}] in all",
    )
