"""Two files of DVC that a kill can break: dvc.lock, the record of results, and rwlock, the table of files in use."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from engine.artifacts.files import atomic_file

LOCK = Path("dvc.lock")
RWLOCK = Path(".dvc/tmp/rwlock")

Hashes = dict[str, str | None]


def recorded_outs() -> dict[str, Hashes]:
    """Return the outputs that dvc.lock records: stage, path, hash."""
    from dvc.utils.serialize import load_yaml

    stages = load_yaml(LOCK).get("stages", {}) if LOCK.is_file() else {}
    return {
        name: {out["path"]: out.get("md5") or out.get("hash") for out in stage.get("outs", [])}
        for name, stage in stages.items()
    }


def rwlock_is_whole() -> bool:
    """Return whether DVC can read its table of the files in use: a kill at the wrong moment leaves half of one."""
    for _ in range(5):  # another process may be writing it just now
        try:
            json.loads(RWLOCK.read_text())
        except FileNotFoundError:
            return True
        except ValueError:
            time.sleep(0.05)
        else:
            return True
    return False


def remove_rwlock() -> None:
    """Let DVC begin a new table of the files in use; nothing of this project may be running."""
    RWLOCK.unlink(missing_ok=True)


def write_lock_whole() -> None:
    """Let DVC, in this process, replace dvc.lock in one step.

    DVC truncates the file and then writes it for as long as a second: who is killed meanwhile loses what it recorded.
    """
    from dvc.utils.serialize import _common

    dump = _common._dump_data

    def dump_whole(path: Any, data: Any, dumper: Any, fs: Any = None, **arguments: Any) -> None:
        with atomic_file(Path(path)) as partial:
            dump(partial, data, dumper, **arguments)

    _common._dump_data = dump_whole
