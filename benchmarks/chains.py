"""The paper's CIFAR views, as the engine and as others make them: crop, flip, colour jitter, grayscale.

Each function returns what turns images into views. Kornia's colour jitter draws one order of its four operations a
batch; everywhere else every image has its own, as in the paper. Kornia's crops do not antialias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.randomness import stream
from engine.victimspec import ViewsSpec
from engine.views import Views

SCALE, FLIP, JITTER, JITTER_PROBABILITY, GRAYSCALE = (0.2, 1.0), 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2
Chain = Callable[[Any], Tensor]


def engine_views(size: int) -> Views:
    """Return the engine's views, after a check that they are the same distribution as the others here."""
    spec = ViewsSpec(size=size)
    declared = spec.crop_scale, spec.flip, spec.jitter, spec.jitter_probability, spec.grayscale
    assert declared == (SCALE, FLIP, JITTER, JITTER_PROBABILITY, GRAYSCALE), "the paper's views have changed"
    return Views(**spec.arguments())


def engine_chain(size: int) -> Chain:
    """Return the engine's views of float images [N, 3, H, W], the draws included."""
    views, draws = engine_views(size), stream(0, "benchmarks", "views")
    return lambda images: views(draws, images)


def kornia_chain(size: int, cropping: str) -> Chain:
    """Return kornia's views of float images [N, 3, H, W]; ``cropping`` is its ``slice`` or ``resample``.

    ``ColorJitter`` has torchvision's formulas, as the paper; kornia's newer ``ColorJiggle`` is not faster.
    """
    import kornia.augmentation as K

    return nn.Sequential(
        K.RandomResizedCrop((size, size), scale=SCALE, cropping_mode=cropping),
        K.RandomHorizontalFlip(p=FLIP),
        K.ColorJitter(*JITTER, p=JITTER_PROBABILITY),
        K.RandomGrayscale(p=GRAYSCALE),
    )


def torchvision_chain(size: int) -> Chain:
    """Return torchvision v2's views of tensors, image by image: float or eight-bit [N, 3, H, W]."""
    from torchvision.transforms import v2

    chain = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=SCALE),
            v2.RandomHorizontalFlip(FLIP),
            v2.RandomApply([v2.ColorJitter(*JITTER)], JITTER_PROBABILITY),
            v2.RandomGrayscale(GRAYSCALE),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return lambda images: torch.stack([chain(image) for image in images])


def pillow_view(size: int) -> Callable[[Any], Tensor]:
    """Return torchvision's view of one Pillow image, from the image to the tensor."""
    from torchvision import transforms as T

    view: Callable[[Any], Tensor] = T.Compose(
        [
            T.RandomResizedCrop(size, scale=SCALE),
            T.RandomHorizontalFlip(FLIP),
            T.RandomApply([T.ColorJitter(*JITTER)], JITTER_PROBABILITY),
            T.RandomGrayscale(GRAYSCALE),
            T.ToTensor(),
        ]
    )
    return view


def pillow_chain(size: int) -> Chain:
    """Return torchvision's views of a list of Pillow images."""
    view = pillow_view(size)
    return lambda images: torch.stack([view(image) for image in images])


def as_pillow(images_u8: Tensor) -> list[Any]:
    """Return eight-bit images [N, 3, H, W] as Pillow images."""
    from torchvision.transforms.functional import to_pil_image

    return [to_pil_image(image) for image in images_u8]
