"""What every defense promises, whatever its kind."""

from __future__ import annotations

import pytest
import torch

from engine import plugins
from engine.protocols import Defense, ImageSet
from engine.randomness import stream
from engine.specfiles import load, names

NAMES = names("defenses")


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(0, 256, (6, 3, 16, 16), generator=stream(0, "test"), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(6) % 3, ("a", "b", "c"))


def test_every_kind_has_a_declared_name() -> None:
    assert {load("defenses", name).kind for name in NAMES} == set(plugins.kinds("defenses"))
    assert "none" in NAMES


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_the_data_set_keeps_shape_type_and_labels(self, name: str, images: ImageSet) -> None:
        defense: Defense = plugins.build("defenses", load("defenses", name))
        defended = defense.on_dataset(images, stream(0, "defense"))
        assert defended.images_u8.shape == images.images_u8.shape
        assert defended.images_u8.dtype == torch.uint8
        assert torch.equal(defended.labels, images.labels)

    def test_a_data_set_that_it_says_to_leave_alone_stays_as_it_is(self, name: str, images: ImageSet) -> None:
        defense: Defense = plugins.build("defenses", load("defenses", name))
        before = images.images_u8.clone()
        assert isinstance(defense.changes_dataset, bool)
        defended = defense.on_dataset(images, stream(0, "defense"))
        if not defense.changes_dataset:
            # Such a data set may stream, and then nobody calls on_dataset.
            assert torch.equal(defended.images_u8, before)

    def test_a_view_keeps_shape_type_and_range(self, name: str, images: ImageSet) -> None:
        defense: Defense = plugins.build("defenses", load("defenses", name))
        view = images.images_u8.float() / 255
        defended = defense.on_view(view, stream(0, "defense"))
        assert (defended.shape, defended.dtype) == (view.shape, view.dtype)
        assert 0 <= defended.min() <= defended.max() <= 1

    def test_the_same_stream_gives_the_same_result(self, name: str, images: ImageSet) -> None:
        defense: Defense = plugins.build("defenses", load("defenses", name))
        view = images.images_u8.float() / 255
        first, second = (defense.on_view(view, stream(3, "defense")) for _ in range(2))
        assert torch.equal(first, second)
