"""Contrastive losses against their papers' pseudo-code and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.losses import nt_xent
from engine.randomness import stream


def embeddings(batch: int, dimensions: int, name: str = "embeddings", seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = stream(seed, name)
    za, zb = (torch.randn(batch, dimensions, generator=generator, dtype=torch.float64) for _ in range(2))
    return za, zb


def simclr_pseudo_code(za: Tensor, zb: Tensor, temperature: float) -> float:
    """Follow Algorithm 1 of Chen et al. 2020 line by line: 1-based rows, the views of image k at 2k - 1 and 2k."""
    count = len(za)
    z = {}
    for k in range(1, count + 1):
        z[2 * k - 1], z[2 * k] = za[k - 1].tolist(), zb[k - 1].tolist()

    def similarity(i: int, j: int) -> float:
        dot = math.fsum(p * q for p, q in zip(z[i], z[j], strict=True))
        return dot / (math.hypot(*z[i]) * math.hypot(*z[j]))

    def pair_loss(i: int, j: int) -> float:
        rest = math.fsum(math.exp(similarity(i, k) / temperature) for k in range(1, 2 * count + 1) if k != i)
        return -math.log(math.exp(similarity(i, j) / temperature) / rest)

    return math.fsum(pair_loss(2 * k - 1, 2 * k) + pair_loss(2 * k, 2 * k - 1) for k in range(1, count + 1)) / (
        2 * count
    )


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize(("batch", "dimensions"), [(1, 3), (2, 1), (5, 4), (9, 2)])
def test_nt_xent_is_the_papers_pseudo_code(batch: int, dimensions: int, temperature: float) -> None:
    za, zb = embeddings(batch, dimensions)
    expected = simclr_pseudo_code(za, zb, temperature)
    assert nt_xent(za, zb, temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 8, 31])
def test_nt_xent_of_equal_embeddings_is_the_log_of_the_number_of_candidates(batch: int) -> None:
    z = torch.ones(batch, 5, dtype=torch.float64)
    assert nt_xent(z, z, temperature=0.5).item() == pytest.approx(math.log(2 * batch - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_of_orthogonal_pairs_has_its_closed_form(temperature: float) -> None:
    batch = 6
    z = torch.eye(batch, dtype=torch.float64)
    expected = -1 / temperature + math.log(math.exp(1 / temperature) + 2 * batch - 2)
    assert nt_xent(z, z, temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_nt_xent_does_not_see_the_length_of_an_embedding() -> None:
    za, zb = embeddings(7, 4)
    lengths = torch.rand(7, 1, generator=stream(0, "lengths"), dtype=torch.float64) * 10 + 0.1
    torch.testing.assert_close(nt_xent(lengths * za, zb, temperature=0.5), nt_xent(za, zb, temperature=0.5))


def test_nt_xent_does_not_see_the_order_of_a_batch() -> None:
    za, zb = embeddings(7, 4)
    order = torch.randperm(7, generator=stream(0, "order"))
    torch.testing.assert_close(nt_xent(za[order], zb[order], temperature=0.5), nt_xent(za, zb, temperature=0.5))


def test_nt_xent_does_see_which_views_belong_together() -> None:
    za, _ = embeddings(7, 4)
    mismatched = nt_xent(za, za.roll(1, 0), temperature=0.5)
    assert nt_xent(za, za, temperature=0.5) < mismatched - 0.1


def test_nt_xent_is_symmetric_in_the_views() -> None:
    za, zb = embeddings(7, 4)
    torch.testing.assert_close(nt_xent(za, zb, temperature=0.5), nt_xent(zb, za, temperature=0.5))


def test_nt_xent_has_its_numerical_gradient_in_both_views() -> None:
    za, zb = (z.requires_grad_() for z in embeddings(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.5), (za, zb))


def test_nt_xent_stays_finite_in_single_precision_at_a_low_temperature() -> None:
    za, zb = (z.float().requires_grad_() for z in embeddings(8, 16))
    loss = nt_xent(za, zb, temperature=1e-3)  # exp(1 / temperature) overflows single precision
    gradients = torch.autograd.grad(loss, (za, zb))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
