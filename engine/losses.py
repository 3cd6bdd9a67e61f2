"""Contrastive losses, and one of noise, as their equations.

Shapes: B images in a batch, D embedding dimensions, Q keys in a queue, K classes; ``z_BD`` are projections, one row an
image. Rows need not be normalised: every contrastive loss compares directions.
"""

from __future__ import annotations

from typing import Literal

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


@in_float32
def class_separability(
    noise_BD: Tensor, labels_B: Tensor, *, num_classes: int, gradient: Literal["full", "centres"]
) -> Tensor:
    """Return the class-wise separability discriminant of a batch's noise: how badly it tells the classes apart.

    A class has a centre and a scatter, its members' mean distance from it. The value is the mean, over the pairs of
    classes in the batch, of (scatter + scatter + 1e-5) / (distance of the centres + 1e-5): 0 where a batch holds one
    class. ``centres`` sends the gradient through the distances of the centres alone, ``full`` through the scatters too.

    Noise that is the same everywhere has no gradient: a distance of zero has no direction.

    Source: Ren et al. 2023 (TUE), CSD; the released code rebuilds its scatters as constants, which is ``centres``.
    """
    members_BK = F.one_hot(labels_B, num_classes).to(noise_BD.dtype)
    counts_K = members_BK.sum(dim=0)
    shares_KB = (members_BK / counts_K.clamp_min(1)).T
    centres_KD = shares_KB @ noise_BD
    scatters_K = shares_KB @ (noise_BD - centres_KD[labels_B]).norm(dim=1)
    if gradient == "centres":
        scatters_K = scatters_K.detach()
    gaps_KK = (centres_KD[:, None] - centres_KD).norm(dim=2)
    ratios_KK = (scatters_K[:, None] + scatters_K + 1e-5) / (gaps_KK + 1e-5)
    present_K = counts_K > 0
    pairs_KK = (present_K[:, None] & present_K).fill_diagonal_(False)
    return (ratios_KK * pairs_KK).sum() / pairs_KK.sum().clamp_min(1)
