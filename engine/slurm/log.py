"""A job's log, as it grows."""

from __future__ import annotations

import codecs
from collections import deque
from pathlib import Path


class Log:
    """Shows a file from where it was left."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self) -> None:
        """Print what has come since."""
        if not self.file.is_file():
            return
        with self.file.open("rb") as stream:
            stream.seek(self._offset)
            while part := stream.read(1 << 16):
                self._offset += len(part)
                print(self._decoder.decode(part), end="", flush=True)

    def skip_to_last(self, lines: int) -> None:
        """Leave out all but the last lines of what is there already."""
        if self.file.is_file():
            with self.file.open("rb") as stream:
                kept = deque(stream, maxlen=lines)
                self._offset = stream.tell() - sum(map(len, kept))


def last_lines(file: Path, count: int) -> str:
    """Return the end of a log, indented; a remark where there is none."""
    if not file.is_file():
        return "  (the job wrote no log)"
    with file.open(encoding="utf-8", errors="replace") as stream:
        kept = deque(stream, maxlen=count)
    return "".join(f"  {line.rstrip()}\n" for line in kept).rstrip("\n") or "  (its log is empty)"
