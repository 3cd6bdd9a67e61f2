"""Poisons that others released: read without executing anything, and checked against the clean images."""

from engine.importing.checks import Match, poison_of
from engine.importing.found import Found, ImportFault
from engine.importing.reading import fingerprint, known_layouts, layout_of, read

__all__ = ["Found", "ImportFault", "Match", "fingerprint", "known_layouts", "layout_of", "poison_of", "read"]
