"""The one error that is shown as a message, not as a traceback."""

from __future__ import annotations


class EngineError(Exception):
    """A fault that the user can mend: the message says what is wrong, where, and what to do."""

    exit_code = 1
