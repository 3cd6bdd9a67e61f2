"""Contrastive losses, as their equations.

Shapes: B images in a batch, D embedding dimensions, Q keys in a queue; ``z_BD`` are projections, one row an image.
Rows need not be normalised: every loss compares directions.
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
    2B - 2 remaining embeddings are its negatives.

    Source: Chen et al. 2020 (SimCLR), eq. 1 and Algorithm 1.
    """
    z = F.normalize(torch.cat([za_BD, zb_BD]), dim=1)
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    batch = len(za_BD)
    positives = torch.arange(2 * batch, device=z.device).roll(batch)
    return F.cross_entropy(logits, positives)


@in_float32
def info_nce(q_BD: Tensor, k_BD: Tensor, queue_QD: Tensor, *, temperature: float) -> Tensor:
    """Return the cross-entropy of telling a query's key from those of a queue.

    Source: He et al. 2020 (MoCo), eq. 1 and Algorithm 1.
    """
    q, k, queue = (F.normalize(z, dim=1) for z in (q_BD, k_BD, queue_QD))
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


@in_float32
def negative_cosine(p_BD: Tensor, z_BD: Tensor) -> Tensor:
    """Return minus the mean cosine of predictions and their targets, from -1 to 1.

    Source: Chen & He 2021 (SimSiam), eq. 1. Grill et al. 2020 (BYOL), eq. 2, is 2 + 2 times it.
    """
    return -F.cosine_similarity(p_BD, z_BD, dim=1).mean()


@in_float32
def sup_con(za_BD: Tensor, zb_BD: Tensor, labels_B: Tensor, *, temperature: float) -> Tensor:
    """Return the supervised contrastive loss of two views of a batch.

    Every one of the 2B embeddings is an anchor; all others of its label are its positives, and the mean over
    them stands outside the logarithm.

    Source: Khosla et al. 2020 (SupCon), eq. 2.
    """
    z, labels = F.normalize(torch.cat([za_BD, zb_BD]), dim=1), labels_B.repeat(2)
    logits = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & ~itself
    log_probability = logits - logits.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    return -((log_probability * positive).sum(dim=1) / positive.sum(dim=1)).mean()
