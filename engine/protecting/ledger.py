"""What is finished: a step that was done before, on the same inputs, is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engine.artifacts.files import read_json, write_json
from engine.protocols import Job
from engine.stages.dispatch import dispatch

DONE = Path(".work/done")


def once(key: str, about: dict[str, Any], outs: Iterable[Path], work: Callable[[], object]) -> None:
    """Do a step unless its record says that the same was done, and what it made is there."""
    record, identity = DONE / f"{key}.json", hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    outs = list(outs)
    if record.is_file() and read_json(record).get("identity") == identity and all(out.exists() for out in outs):
        return
    work()
    write_json(record, {"identity": identity, "outs": [str(out) for out in outs]})


def run_once(job: Job, layout: str) -> None:
    """Run a stage's job where the layout says, unless it is finished."""
    once(f"{job.stage}-{job.dataset}-{job.key}", job.about, job.outs, lambda: dispatch(job, layout))
