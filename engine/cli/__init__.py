"""The command line: one command a stage, and the few that a person types."""

from __future__ import annotations

import os
import sys

from engine.cli import imports, owners, poisons, project, stages  # they add their commands to the program
from engine.cli.options import app

__all__ = ["app", "imports", "main", "owners", "poisons", "project", "stages"]


def main() -> None:
    """Run a command; a fault that the user can mend is a message, not a traceback."""
    from engine.errors import EngineError
    from engine.launching import leave_fault

    # Read when torch loads. Waiting threads that spin make a training step ten times slower as soon as
    # anything else runs on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except EngineError as error:
        if not leave_fault(str(error)):
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
