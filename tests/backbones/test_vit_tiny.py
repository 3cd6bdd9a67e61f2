"""The transformer takes images of one size, and says so before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.backbones import vit_tiny
from engine.networks import initialize_
from engine.protocols import Source
from engine.randomness import stream
from engine.stages.validate import check

PLAIN = Source(mean=(0.0,) * 3, std=(1.0,) * 3, num_classes=10)


@pytest.mark.parametrize(
    ("backbone", "size", "words"),
    [
        ("{kind: vit_tiny}", 40, ("views.size", "given 40", "image_size, 32 pixels")),
        ("{kind: vit_tiny}", 24, ("views.size", "given 24", "image_size, 32 pixels")),
        ("{kind: vit_tiny, image_size: 224, patch: 16}", 32, ("views.size", "given 32", "image_size, 224 pixels")),
        ("{kind: vit_tiny, patch: 5}", 32, ("backbone.patch", "must divide image_size (32), given 5")),
        ("{kind: vit_tiny, heads: 5}", 32, ("backbone.heads", "must divide width (192), given 5")),
        ("{kind: vgg19}", 31, ("views.size", "given 31", "32 pixels or more")),
    ],
)
def test_a_size_that_does_not_fit_is_a_fault_of_the_victims_spec(
    project: Path, backbone: str, size: int, words: tuple[str, ...]
) -> None:
    file = project / "specs/victims/odd.yaml"
    file.write_text(f"kind: simclr\nbackbone: {backbone}\nviews: {{size: {size}}}\n")
    _, faults = check()
    (fault,) = [str(fault) for fault in faults if fault.file.name == file.name]
    assert all(word in fault for word in words), fault


def test_the_position_of_a_patch_counts() -> None:
    spec = vit_tiny.Spec(kind="vit_tiny", image_size=8, patch=4, width=8, depth=2, heads=2)
    encoder = initialize_(vit_tiny.build(spec, source=PLAIN), stream(0, "init")).eval()
    images = torch.rand(2, 3, 8, 8, generator=stream(0, "images"))
    swapped = images.roll(4, dims=3)  # the left patches change places with the right ones
    with torch.no_grad():
        moved = (encoder(images) - encoder(swapped)).abs().max()
        encoder.backbone.encoder.pos_embedding.zero_()
        assert moved > 1e-3
        torch.testing.assert_close(encoder(images), encoder(swapped), atol=1e-5, rtol=1e-4)
