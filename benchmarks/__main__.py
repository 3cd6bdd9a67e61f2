"""Run the benchmarks."""

from __future__ import annotations

import os


def main() -> None:
    """Set what torch reads when it loads, as ``python -m engine`` does, and start."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from benchmarks.cli import app

    app()


if __name__ == "__main__":
    main()  # guarded: a data loader's worker may import this module again
