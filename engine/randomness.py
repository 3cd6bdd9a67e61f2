"""Named, independent random streams: every draw of the engine comes from one of these."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream(seed: int, *names: str) -> torch.Generator:
    """Return the CPU generator of one named stream.

    Streams with different names are independent, and a draw from one never shifts another: adding an
    augmentation does not change a network's initial weights. They live on the CPU so that the same seed
    draws the same numbers on every device.

    Raises:
        ValueError: no name was given, or a name holds the separator ``/``.
    """
    import torch

    if not names or any("/" in name for name in names):
        raise ValueError(f"a stream needs one or more names without '/', got {names!r}")
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    # torch takes seeds in the signed 64-bit range; 63 bits keep the number positive everywhere.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
