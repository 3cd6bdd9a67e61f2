"""The verdict: one page and one JSON file on what a thief still learns from protected images."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import read_json
from engine.protecting.findings import findings, margin
from engine.protecting.judging import AGAIN, CLEAN, UNDEFENDED, UNTRAINED, Reading, Readings
from engine.protecting.writing import RECORD, VERDICT, put, put_json

SIDES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Bounds of the longer side in pixels, by which survival of the noise is summed up."""
CHANGED = {
    "first_frames": "had several frames, of which the first alone is kept",
    "laid_over_white": "were transparent and are laid over white",
}
REFERENCES = (UNTRAINED, CLEAN, AGAIN)
"""Rows that others are compared with."""
LIMITS = (
    "Learners here start from random weights. One that was pretrained elsewhere brings features that no noise removes.",
    "Adversarial training and purification (diffusion models, super-resolution) are not tried here; both are known to "
    "undo noise of this kind.",
    "Clean images of the same kind from elsewhere help a thief; noise on these does nothing about it.",
    "The test is small: small networks, small images, one seed. A thief with more of either may learn more or less.",
    "Whoever resizes, crops or compresses otherwise than tested here sees other noise.",
)
"""What no verdict covers; docs/protect.md says more."""


@dataclass(frozen=True)
class Facts:
    """What a verdict is about."""

    recipe: str
    labels: str
    """Where the classes come from, as a sentence."""
    judged_on: str
    working_size: int
    seed: int


def survival_by_side(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how much of the noise arrives at the working size, by the images' longer side: means."""
    groups: dict[int | None, list[dict[str, Any]]] = {}
    for image in images:
        longer = max(image["width"], image["height"])
        if image["survival"]:
            groups.setdefault(next((side for side in SIDES if longer <= side), None), []).append(image["survival"])
    ordered = sorted(groups.items(), key=lambda item: (item[0] is None, item[0]))
    return [
        {
            "longer_side_up_to": side,
            "images": len(found),
            **{key: round(statistics.fmean(each[key] for each in found), 4) for key in ("norm", "cosine")},
        }
        for side, found in ordered
    ]


def write_verdict(output: Path, facts: Facts, judged: Sequence[Readings]) -> str:
    """Write verdict.json and verdict.md beside the protected images, and return the page."""
    record = read_json(output / RECORD)
    content = {
        **asdict(facts),
        **{key: record[key] for key in ("epsilon", "max_level", "attack", "broken", "not_images")},
        "protected": len(record["images"]),
        "first_frames": sum(image["frames"] > 1 for image in record["images"]),
        "laid_over_white": sum(image["is_transparent"] for image in record["images"]),
        "survival": survival_by_side(record["images"]),
        "readings": [_values(readings, reading) for readings in judged for reading in readings.rows],
        "margins": {readings.learner: round(margin(readings), 4) for readings in judged},
        "findings": [asdict(finding) for readings in judged for finding in findings(readings)],
        "limits": list(LIMITS),
    }
    record_file, page_file = (output / name for name in VERDICT)
    put_json(record_file, content)
    page = "\n".join(_page(content)) + "\n"
    put(page_file, page)
    return page


def _values(readings: Readings, reading: Reading) -> dict[str, Any]:
    measures = ("linear", "knn") if reading.accuracy.head is None else ("linear", "knn", "head")
    removed = {f"{measure}_gain_removed": readings.removed(reading, measure) for measure in measures}
    return {
        "learner": reading.learner,
        "kind": readings.kind,
        "release": reading.release,
        "defense": reading.defense,
        **{measure: reading.reached(measure) for measure in measures},
        **{name: None if share is None else round(share, 4) for name, share in removed.items()},
        "test_images": reading.accuracy.test_images,
    }


def _page(content: dict[str, Any]) -> Iterator[str]:
    made = content["attack"]
    yield f"# Verdict: {content['protected']:,} images protected, {len(content['broken']):,} broken"
    yield ""
    yield (
        f"Recipe {content['recipe']}: {made['name']} at epsilon {content['max_level']}/255, noise made at "
        f"{content['working_size']} x {content['working_size']} pixels and laid over each image at full size. "
        f"{content['labels']} {content['judged_on']} Seed {content['seed']}."
    )
    yield "Publish images/ alone: protected.json and this page tell a thief what was done."
    for key, what in CHANGED.items():
        if content[key]:
            yield f"{content[key]:,} of the images {what}."
    yield from ("", "## What is found", "")
    for finding in content["findings"]:
        yield f"- **{finding['level']}**, {finding['learner']}: {finding['text']}"
    yield from ("", "## What a thief reaches", "")
    yield from _table(content["readings"])
    if content["survival"]:
        yield from ("", "## How much of the noise arrives", "")
        yield from _survival_table(content["survival"], content["working_size"])
    if content["broken"]:
        yield from ("", "## Broken files, not protected and not copied", "")
        yield from (f"- {each['name']}: {each['reason']}" for each in content["broken"])
    yield from ("", "## What this does not say", "")
    yield from (f"- {limit}" for limit in content["limits"])


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    measures = ["knn", "linear", *(["head"] if any("head" in row for row in rows) else [])]
    titles = {"knn": "kNN", "linear": "linear", "head": "own classifier"}
    headings = ["learner", "release", "defense"]
    for measure in measures:
        headings += [f"{titles[measure]} (%)", "gain removed (%)"]
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join(['---'] * 3 + ['---:'] * (len(headings) - 3))}|"
    for row in rows:
        cells = [row["learner"], row["release"], "" if row["defense"] == UNDEFENDED else row["defense"]]
        for measure in measures:
            share = None if row["release"] in REFERENCES else row.get(f"{measure}_gain_removed")
            cells += [f"{row[measure]:.1f}" if measure in row else "", "" if share is None else f"{share:.0f}"]
        yield f"| {' | '.join(cells)} |"


def _survival_table(rows: list[dict[str, Any]], size: int) -> Iterator[str]:
    yield f"| longer side (pixels) | images | norm of the noise seen at {size} pixels (% of the noise made) | cosine |"
    yield "|---|---:|---:|---:|"
    for row in rows:
        side = row["longer_side_up_to"]
        name = f"more than {SIDES[-1]:,}" if side is None else f"up to {side:,}"
        yield f"| {name} | {row['images']:,} | {100 * row['norm']:.0f} | {row['cosine']:.2f} |"
