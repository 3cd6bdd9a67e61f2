"""A declarative engine for the study of availability poisoning of contrastive learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api import Study, load_poison, run

__version__ = "0.1.0"
__all__ = ["Study", "load_poison", "run"]


def __getattr__(name: str) -> Any:
    """Load the interface for notebooks when it is first asked for: commands start without it."""
    if name in __all__:
        from engine import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
