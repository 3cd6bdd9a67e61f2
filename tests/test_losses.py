"""Contrastive losses against their papers' pseudo-code and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from engine.losses import info_nce, negative_cosine, nt_xent, sup_con
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


def cosine(one: Tensor, other: Tensor) -> float:
    dot = math.fsum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))
    return dot / (math.hypot(*one.tolist()) * math.hypot(*other.tolist()))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize(("batch", "keys"), [(1, 1), (3, 8), (5, 2)])
def test_info_nce_is_the_papers_equation_written_with_loops(batch: int, keys: int, temperature: float) -> None:
    q, k = embeddings(batch, 4)
    queue, _ = embeddings(keys, 4, "queue")
    losses = []
    for query, key in zip(q, k, strict=True):
        positive = math.exp(cosine(query, key) / temperature)
        negatives = [math.exp(cosine(query, other) / temperature) for other in queue]
        losses.append(-math.log(positive / (positive + math.fsum(negatives))))
    expected = math.fsum(losses) / batch
    assert info_nce(q, k, queue, temperature=temperature).item() == pytest.approx(expected, abs=1e-12)


def test_info_nce_of_a_queue_of_the_own_key_is_the_log_of_the_number_of_candidates() -> None:
    z = torch.ones(4, 3, dtype=torch.float64)
    queue = torch.ones(6, 3, dtype=torch.float64)
    assert info_nce(z, z, queue, temperature=0.2).item() == pytest.approx(math.log(7), abs=1e-12)


def test_info_nce_has_its_numerical_gradient_in_queries_and_keys() -> None:
    q, k = (z.requires_grad_() for z in embeddings(3, 4))
    queue, _ = embeddings(5, 4, "queue")
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, queue, temperature=0.5), (q, k))


def test_negative_cosine_is_the_mean_written_with_loops_and_byols_distance_is_twice_it_plus_two() -> None:
    p, z = embeddings(6, 5)
    cosines = [cosine(a, b) for a, b in zip(p, z, strict=True)]
    found = negative_cosine(p, z).item()
    assert found == pytest.approx(-math.fsum(cosines) / 6, abs=1e-12)
    squares = (torch.nn.functional.normalize(p, dim=1) - torch.nn.functional.normalize(z, dim=1)).square().sum(dim=1)
    assert squares.mean().item() == pytest.approx(2 + 2 * found, abs=1e-12)


def test_negative_cosine_goes_from_minus_one_to_one() -> None:
    z, _ = embeddings(4, 3)
    assert negative_cosine(z, 3 * z).item() == pytest.approx(-1)
    assert negative_cosine(z, -z).item() == pytest.approx(1)


def sup_con_pseudo_code(za: Tensor, zb: Tensor, labels: list[int], temperature: float) -> float:
    """Write eq. 2 of Khosla et al. 2020 with loops over anchors, positives and all others."""
    z, label = [*za, *zb], labels * 2
    total = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if label[p] == label[i]]
        rest = math.fsum(math.exp(cosine(z[i], z[a]) / temperature) for a in others)
        logs = [math.log(math.exp(cosine(z[i], z[p]) / temperature) / rest) for p in positives]
        total.append(-math.fsum(logs) / len(positives))
    return math.fsum(total) / len(z)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("labels", [[0], [0, 0], [0, 1, 0, 2, 1], [3, 1, 2]])
def test_sup_con_is_the_papers_equation_written_with_loops(labels: list[int], temperature: float) -> None:
    za, zb = embeddings(len(labels), 4)
    expected = sup_con_pseudo_code(za, zb, labels, temperature)
    found = sup_con(za, zb, torch.tensor(labels), temperature=temperature)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_sup_con_of_labels_that_all_differ_is_nt_xent() -> None:
    za, zb = embeddings(6, 4)
    torch.testing.assert_close(
        sup_con(za, zb, torch.arange(6), temperature=0.3), nt_xent(za, zb, temperature=0.3), atol=1e-12, rtol=0
    )


def test_sup_con_has_its_numerical_gradient() -> None:
    za, zb = (z.requires_grad_() for z in embeddings(4, 3))
    labels = torch.tensor([0, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda a, b: sup_con(a, b, labels, temperature=0.5), (za, zb))
