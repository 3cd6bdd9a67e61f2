"""The order in which images are visited."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batching import EndlessBatches, batches
from engine.errors import EngineError
from engine.randomness import stream

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12))
def test_batches_are_whole_and_keep_the_order_without_the_remainder(count: int, batch_size: int) -> None:
    order = torch.randperm(count, generator=stream(0, "order"))
    cut = [batch.tolist() for batch in batches(order, batch_size)]
    assert [len(batch) for batch in cut] == [batch_size] * (count // batch_size)
    assert list(itertools.chain(*cut)) == order.tolist()[: count // batch_size * batch_size]


def test_endless_batches_visit_an_image_at_most_once_a_pass_and_reshuffle() -> None:
    endless = EndlessBatches(11, 3, stream(0, "order"), CPU)
    passes = [torch.cat([next(endless) for _ in range(3)]).tolist() for _ in range(40)]
    assert all(len(set(rows)) == 9 and set(rows) <= set(range(11)) for rows in passes)
    assert len(set(map(tuple, passes))) == 40
    # Which two images miss a pass is drawn anew: every image is visited.
    assert set(itertools.chain(*passes)) == set(range(11))


def test_endless_batches_visit_every_image_once_a_pass_where_batches_divide_the_images() -> None:
    endless = EndlessBatches(12, 4, stream(0, "order"), CPU)
    visits = torch.cat([next(endless) for _ in range(3 * 5)])
    assert torch.equal(visits.bincount(), torch.full((12,), 5))


def test_endless_batches_depend_on_the_stream_alone() -> None:
    one, same, other = (
        torch.stack(list(itertools.islice(EndlessBatches(10, 5, stream(seed, "order"), CPU), 7))) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_batch_can_be_all_images_but_not_more() -> None:
    assert sorted(next(EndlessBatches(4, 4, stream(0, "order"), CPU)).tolist()) == [0, 1, 2, 3]
    with pytest.raises(EngineError, match="4 images are fewer than one batch of 5"):
        next(EndlessBatches(4, 5, stream(0, "order"), CPU))
