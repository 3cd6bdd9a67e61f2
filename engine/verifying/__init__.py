"""Whether a poisoned data set is what its manifest says, and what is left of it after it was saved again."""

from engine.verifying.checks import Check, Verification, verify
from engine.verifying.survival import Survival, survive

__all__ = ["Check", "Survival", "Verification", "survive", "verify"]
