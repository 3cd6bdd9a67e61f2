"""What every defense promises, whatever its kind: of every declared one."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from engine import plugins
from engine.optimization import trained
from engine.precision import Precision
from engine.protocols import Defense, DefenseContext, ImageSet, Source, Victim
from engine.randomness import stream
from engine.spec import ImageDefenseSpec
from engine.specfiles import load, names

NAMES = names("defenses")
SIZE, COUNT, CLASSES = 16, 16, 3
SOURCE = Source((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CLASSES)
CPU = Precision("fp32", torch.device("cpu"))
SMALL: dict[str, Any] = {
    "backbone": {"kind": "resnet18", "width": 4, "stages": [1, 1]},
    "views": {"size": SIZE},
    "batch_size": COUNT,
}
VICTIMS = plugins.kinds("victims")


def victim_spec(kind: str) -> Any:
    return TypeAdapter(plugins.spec_of("victims")).validate_python({"kind": kind, **SMALL}, strict=False)


def victim_of(kind: str) -> Victim:
    victim: Victim = plugins.build("victims", victim_spec(kind), source=SOURCE, generator=stream(0, "victim", "init"))
    return victim


def defense_of(name: str, **changes: Any) -> Defense:
    """Build a declared defense, small enough for sixteen images."""
    spec = load("defenses", name)
    if "clusters" in type(spec).model_fields:
        changes["clusters"] = (2, 4)
    defense: Defense = plugins.build("defenses", spec.model_copy(update=changes))
    return defense


def context(*, seed: int = 0) -> DefenseContext:
    def pretrained(which: Literal["released", "clean"]) -> nn.Module:
        return victim_of("simclr").encoder

    return DefenseContext(stream(seed, "defense", "test"), CPU, pretrained)


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(0, 256, (COUNT, 3, SIZE, SIZE), generator=stream(0, "test"), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(COUNT) % CLASSES, ("a", "b", "c"))


def test_every_kind_has_a_declared_name() -> None:
    assert {load("defenses", name).kind for name in NAMES} == set(plugins.kinds("defenses"))
    assert "none" in NAMES


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_the_data_set_keeps_shape_type_and_labels(self, name: str, images: ImageSet) -> None:
        defended = defense_of(name).on_dataset(images, context())
        assert defended.images_u8.shape == images.images_u8.shape
        assert defended.images_u8.dtype == torch.uint8
        assert defended.labels.dtype == torch.int64
        assert len(defended.labels) == COUNT
        # A defense may add labels of its own; the data set's come first.
        assert torch.equal(defended.labels.reshape(COUNT, -1)[:, 0], images.labels)

    def test_a_data_set_that_it_says_to_leave_alone_stays_as_it_is(self, name: str, images: ImageSet) -> None:
        defense, before = defense_of(name), images.images_u8.clone()
        assert isinstance(defense.changes_dataset, bool)
        defended = defense.on_dataset(images, context())
        assert torch.equal(images.images_u8, before)  # in place it would change the released images themselves
        if not defense.changes_dataset:
            # Such a data set may stream, and then nobody calls on_dataset.
            assert torch.equal(defended.images_u8, before)
            assert torch.equal(defended.labels, images.labels)

    def test_images_and_views_keep_shape_type_and_range(self, name: str, images: ImageSet) -> None:
        defense, pixels = defense_of(name), images.images_u8.float() / 255
        before, generator = pixels.clone(), stream(0, "defense")
        for defended in (
            defense.on_batch(pixels, generator),
            defense.on_view(lambda x: x, pixels, generator),
            defense.on_view(lambda x: x[..., :8, :8].contiguous(), pixels, generator),
        ):
            assert defended.dtype == torch.float32
            assert defended.shape[:2] == pixels.shape[:2]
            assert 0 <= defended.min() <= defended.max() <= 1
        assert torch.equal(pixels, before)

    def test_the_same_stream_gives_the_same_result(self, name: str, images: ImageSet) -> None:
        defense, pixels = defense_of(name), images.images_u8.float() / 255
        for act in (
            partial(defense.on_batch, pixels),
            partial(defense.on_view, lambda x: x, pixels),
        ):
            first, second = (act(generator=stream(3, "defense")) for _ in range(2))
            assert torch.equal(first, second)
        one, two = (defense.on_dataset(images, context()) for _ in range(2))
        assert torch.equal(one.images_u8, two.images_u8)
        assert torch.equal(one.labels, two.labels)

    def test_every_victim_that_it_can_defend_trains_under_it(self, name: str, images: ImageSet) -> None:
        defense, spec = defense_of(name), load("defenses", name)
        kinds = [kind for kind in VICTIMS if spec.victim_fault(victim_spec(kind)) is None]
        assert kinds
        data = defense.on_dataset(images, context()) if defense.changes_dataset else images
        for kind in kinds:
            losses = [self.step(defense, victim_of(kind), data) for _ in range(2)]
            assert losses[0].isfinite()
            assert torch.equal(*losses)

    def step(self, defense: Defense, inner: Victim, data: ImageSet) -> Tensor:
        """Take a step as the training loop does, check what it leaves behind, and return the loss."""
        victim = defense.on_objective(inner, context())
        victim.network.train()
        weights = trained(victim.network)
        generator, draws = stream(0, "defense"), stream(0, "views")
        pixels = defense.on_batch(data.images_u8.float() / 255, generator)
        views = [defense.on_view(partial(view, draws), pixels, generator) for view in victim.views]
        assert all(view.shape == (COUNT, 3, SIZE, SIZE) for view in views)
        buffers = {id(buffer) for buffer in victim.network.buffers()}
        before = {key: value.clone() for key, value in victim.network.state_dict().items()}
        loss = victim.loss(views, data.labels)
        assert loss.shape == ()
        changed = [key for key, value in victim.network.state_dict().items() if not torch.equal(value, before[key])]
        assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in changed)
        assert {id(buffer) for buffer in victim.network.buffers()} == buffers
        # An inner search for bad views must leave no gradient behind that the optimizer would take for the loss's.
        assert all(weight.grad is None for weight in weights)
        loss.backward()
        assert any(weight.grad is not None and weight.grad.any() for weight in weights)
        assert all(weight.requires_grad for weight in weights)
        victim.after_step()
        # The encoder that is kept fits the plain backbone, for a probe builds that.
        backbone = victim_of("simclr").encoder
        backbone.load_state_dict(victim.encoder.state_dict())
        return loss.detach()

    def test_declared_positions_do_what_they_say(self, name: str, images: ImageSet) -> None:
        if not isinstance(load("defenses", name), ImageDefenseSpec):
            pytest.skip("acts on the data set or the objective alone")
        pixels = images.images_u8.float() / 255
        for position in ("dataset", "batch", "before_view", "after_view"):
            defense, drawn = defense_of(name, position=position), []
            assert defense.changes_dataset == (position == "dataset")
            shared = defense.on_batch(pixels, stream(0, "defense"))
            view = defense.on_view(lambda x, drawn=drawn: drawn.append(x) or x * 0.5, shared, stream(0, "defense"))
            assert (not torch.equal(shared, pixels)) == (position == "batch")
            assert (not torch.equal(drawn[0], shared)) == (position == "before_view")
            assert (not torch.equal(view, drawn[0] * 0.5)) == (position == "after_view")
