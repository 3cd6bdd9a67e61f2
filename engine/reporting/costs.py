"""What a study cost: image-views of every poison, and the time and memory of every stage.

Units: seconds, bytes. Times of different kinds of device are never added.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from engine.reporting.board import UNKNOWN, Board
from engine.reporting.readings import Cost, TrainingCost
from engine.reporting.results import (
    PoisonFacts,
    Results,
    floor_keys,
    floor_stage,
    generate_stage,
    pretrain_stage,
    probe_stage,
)
from engine.reporting.wording import NOTHING, number
from engine.study import StudySpec, cells

STAGES = ("generate", "pretrain", "probe", "floor")


def cost_board(results: Results) -> Board:
    """Return what every poison costs, and what it costs with the poisons that it starts from."""
    return Board(
        "cost",
        "What the poisons cost",
        "Image-views: augmented images sent forwards and backwards through a surrogate while the poison was made. In "
        "all: with the poisons that its noise starts from. Time and peak memory: of the poison alone, as its stage "
        "noted them.",
        (
            *("poison", "attack", "starts from", "image-views", "in all", "in all, per image", "images perturbed"),
            *("time", "peak memory", "made by"),
        ),
        tuple(_line(results, facts) for facts in results.poisons.values()),
        frozenset({0, 1, 2, 9}),
        [_record(results, facts) for facts in results.poisons.values()],
        frozenset({9}),
    )


def _line(results: Results, facts: PoisonFacts) -> tuple[str, ...]:
    record = _record(results, facts)
    per_image = record["image_views_per_image"]
    changed = f"{record['perturbed']:,} of {record['images']:,}" if facts.is_attack and facts.manifest else NOTHING
    cost = results.costs.get(generate_stage(facts.name))
    took = (f"{duration(cost.seconds)} on {cost.device}", memory(cost.peak_memory_bytes)) if cost else (UNKNOWN,) * 2
    return (
        *(facts.name, facts.attack, facts.init, _count(record["image_views"]), _count(record["image_views_in_all"])),
        *(NOTHING if per_image is None else number(per_image, 0), changed, *took, record["command"]),
    )


def _record(results: Results, facts: PoisonFacts) -> dict[str, Any]:
    cost, manifest = results.costs.get(generate_stage(facts.name)), facts.manifest or {}
    images, total = manifest.get("images"), results.image_views(facts)
    return {
        "poison": facts.name,
        "attack": facts.attack,
        "init": facts.init,
        "image_views": manifest.get("image_views"),
        "image_views_in_all": total,
        "image_views_per_image": round(total / images, 4) if total is not None and images else None,
        "images": images,
        "perturbed": manifest.get("perturbed"),
        "seconds": cost.seconds if cost else None,
        "peak_memory_bytes": cost.peak_memory_bytes if cost else None,
        "device": cost.device if cost else None,
        "command": f"dvc repro {generate_stage(facts.name)}",
    }


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def making_sentence(results: Results, facts: PoisonFacts) -> str:
    """Say what making a poison took, with those that its noise starts from, and the precision where it was reduced."""
    views = results.image_views(facts)
    if views is None:
        return ""
    spent = [results.costs.get(generate_stage(link.name)) for link in results.chain(facts)]
    known = [cost for cost in spent if cost]
    devices = {cost.device for cost in known}
    is_known = len(known) == len(spent) and len(devices) == 1
    time = f"{duration(sum(cost.seconds for cost in known))} on {devices.pop()}" if is_known else f"time {UNKNOWN}"
    return f"Made{_in_precision(results.chain(facts))} with {views:,} image-views; {time}."


def _in_precision(chain: Sequence[PoisonFacts]) -> str:
    """Say what networks computed in while noise was learnt; nothing where none was, or all computed in float32."""
    manifests = [link.manifest for link in chain if link.manifest]
    found = {manifest["precision"] for manifest in manifests if manifest["image_views"]}
    return f" in {' and '.join(sorted(found))}" if found - {"fp32"} else ""


def time_board(results: Results) -> Board:
    """Return what each stage took in all cells together, apart for every kind of device."""
    records = list(time_records(results))
    return Board(
        "time",
        "Time and memory",
        "What each stage noted: its time in all cells together and the median cell's, an epoch of training in the "
        "median cell, and the largest peak of memory. A line is of one kind of device; times of different ones are not "
        "added. Cells that noted nothing, since they are older or missing, are unknown.",
        ("stage", "device", "cells", "time in all", "median", "median epoch", "peak memory"),
        tuple(map(_time_line, records)),
        frozenset({0, 1}),
        records,
    )


def time_records(results: Results) -> Iterator[dict[str, Any]]:
    """Yield for every stage and kind of device the time and the memory that its cells noted."""
    wanted = dict.fromkeys(STAGES, 0)
    found: dict[tuple[str, str], list[Cost]] = {}
    for stage in stages_of(results.study, tuple(results.poisons)):
        group = stage.partition("@")[0]
        wanted[group] += 1
        if cost := results.costs.get(stage):
            found.setdefault((group, cost.device), []).append(cost)
    for group, count in wanted.items():
        devices = [device for name, device in found if name == group]
        for device in devices:
            yield {"stage": group, "device": device, "cells": count, **_took(found[group, device])}
        if not devices:
            yield {"stage": group, "device": None, "cells": count, **_took([])}


def stages_of(study: StudySpec, poisons: Sequence[str]) -> Iterator[str]:
    """Yield the names under which DVC knows the stages of a study."""
    yield from map(generate_stage, poisons)
    for cell in cells(study):
        yield pretrain_stage(cell)
        yield from (probe_stage(cell.key, downstream) for downstream in study.downstream)
    yield from map(floor_stage, floor_keys(study))


def _took(costs: Sequence[Cost]) -> dict[str, Any]:
    seconds = [cost.seconds for cost in costs]
    epochs = [cost.seconds_per_epoch for cost in costs if isinstance(cost, TrainingCost)]
    return {
        "n": len(costs),
        "seconds": round(sum(seconds), 4) if seconds else None,
        "median_seconds": round(statistics.median(seconds), 4) if seconds else None,
        "median_seconds_per_epoch": round(statistics.median(epochs), 4) if epochs else None,
        "peak_memory_bytes": max((cost.peak_memory_bytes for cost in costs), default=None),
    }


def _time_line(record: dict[str, Any]) -> tuple[str, ...]:
    cells, epoch = f"{record['n']} of {record['cells']}", record["median_seconds_per_epoch"]
    if not record["n"]:
        return (record["stage"], UNKNOWN, cells, UNKNOWN, UNKNOWN, NOTHING, UNKNOWN)
    return (
        *(record["stage"], record["device"], cells, duration(record["seconds"]), duration(record["median_seconds"])),
        *(NOTHING if epoch is None else duration(epoch), memory(record["peak_memory_bytes"])),
    )


def duration(seconds: float) -> str:
    """Write a time in its two largest units."""
    if seconds < 60:
        return f"{number(seconds, 1 if seconds >= 1 else 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left:02} min" if hours else f"{minutes} min {rest:02} s"


def memory(count: int) -> str:
    """Write bytes in GiB, or where that would be next to nothing in MiB."""
    return f"{number(count / 2**30, 2)} GiB" if count >= 2**30 else f"{number(count / 2**20)} MiB"
