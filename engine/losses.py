"""Contrastive losses, as their equations.

Shapes: B images in a batch, D embedding dimensions; ``z_BD`` are projections, one row an image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.precision import in_float32


@in_float32
def nt_xent(za_BD: Tensor, zb_BD: Tensor, *, temperature: float) -> Tensor:
    """Return the normalised, temperature-scaled cross-entropy of two views of a batch.

    Every one of the 2B embeddings is an anchor; its positive is the other view of the same image and the
    2B - 2 remaining embeddings are its negatives. The rows need not be normalised.

    Source: Chen et al. 2020 (SimCLR), eq. 1 and Algorithm 1.
    """
    z = F.normalize(torch.cat([za_BD, zb_BD]), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    batch = len(za_BD)
    positives = torch.arange(2 * batch, device=z.device).roll(batch)
    return F.cross_entropy(logits, positives)
