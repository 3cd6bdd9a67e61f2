"""No defense: the victim trains on what it was given.

Name: none
Threat model: trusts the released images.
"""

from __future__ import annotations

from typing import Literal

from engine.protocols import Defense
from engine.spec import DefenseSpec


class Spec(DefenseSpec):
    """Nothing to declare."""

    kind: Literal["none"]


def build(spec: Spec) -> Defense:
    """Build the absence of a defense."""
    return Defense()
