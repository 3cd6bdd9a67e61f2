"""How far the operations of a view are from Pillow's, for the engine and for others.

Shapes: B images of 3 x H x W in [0, 1], factors and boxes a row an image. Units: the result's errors in grey levels.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import functional as TF
from torchvision.transforms.v2 import functional as V2

from benchmarks.chains import JITTER, as_pillow, engine_views
from benchmarks.pictures import as_u8, photo_like
from engine.randomness import stream
from engine.views.color import BRIGHTNESS, CONTRAST, HUE, SATURATION

OUT = 32
JITTERS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
BILINEAR = TF.InterpolationMode.BILINEAR


@dataclass(frozen=True)
class Case:
    """An operation on a batch, with parameters over the whole range of the paper's views.

    Shapes: images_u8 uint8 [B, 3, H, W]; values [B] factors, or [B, 4] boxes (top, left, height, width).
    """

    operation: str
    images_u8: Tensor
    values: Tensor


def cases(count: int) -> dict[str, Case]:
    """Return every operation of the paper's CIFAR views, and a crop that shrinks."""
    small, large = (as_u8(photo_like(count, size)) for size in (OUT, 3 * OUT))
    found = {}
    for title, images in {"crop and resize": small, "crop and resize, shrinking": large}.items():
        sampled = engine_views(OUT).sample(stream(0, "benchmarks", title), count, (images.shape[2], images.shape[3]))
        found[title] = Case("crop", images, sampled.boxes)
    for (name, operation), strength in zip(JITTERS.items(), JITTER, strict=True):
        neutral = 0.0 if operation == HUE else 1.0
        found[name] = Case(name, small, torch.linspace(neutral - strength, neutral + strength, count))
    found["grayscale"] = Case("grayscale", small, torch.zeros(count))
    return found


def table(count: int = 64) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the largest and the mean absolute error of every case, by case and implementation."""
    ways = {
        "engine, floats": lambda case: _engine(case, eight_bit=False),
        "engine, eight bits": lambda case: _engine(case, eight_bit=True),
        "torchvision v2, floats": lambda case: _torchvision(case, case.images_u8.float() / 255),
        "torchvision v2, eight bits": lambda case: _torchvision(case, case.images_u8).float() / 255,
    }
    if importlib.util.find_spec("kornia"):
        ways["kornia"] = _kornia
    return {
        title: {name: _error(way(case), case) for name, way in ways.items()} for title, case in cases(count).items()
    }


def _error(views: Tensor, case: Case) -> tuple[float, float]:
    difference = (255 * views - _pillow(case)).abs()
    return difference.max().item(), difference.mean().item()


def _pillow(case: Case) -> Tensor:
    images = zip(as_pillow(case.images_u8), case.values.tolist(), strict=True)
    return torch.stack([TF.pil_to_tensor(_one(TF, case.operation, image, value)).float() for image, value in images])


def _torchvision(case: Case, images: Tensor) -> Tensor:
    each = zip(images, case.values.tolist(), strict=True)
    return torch.stack([_one(V2, case.operation, image, value) for image, value in each])


def _one(functional: Any, operation: str, image: Any, value: Any) -> Any:
    """Apply an operation of torchvision's functional interface, which its two generations share."""
    if operation == "crop":
        top, left, height, width = map(int, value)
        return functional.resized_crop(image, top, left, height, width, [OUT, OUT], BILINEAR, antialias=True)
    if operation == "grayscale":
        return functional.rgb_to_grayscale(image, num_output_channels=3)
    return getattr(functional, f"adjust_{operation}")(image, value)


def _engine(case: Case, *, eight_bit: bool) -> Tensor:
    """Apply the engine's views with every other operation of the chain neutral."""
    views, batch = engine_views(OUT), len(case.images_u8)
    size = (case.images_u8.shape[2], case.images_u8.shape[3])
    sampled = views.sample(stream(0, "benchmarks", "errors"), batch, size)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(batch, 1)
    if case.operation in JITTERS:
        factors[:, JITTERS[case.operation]] = case.values
    whole = torch.tensor([0.0, 0.0, *size]).expand(batch, 4)
    parameters = dataclasses.replace(
        sampled,
        boxes=case.values if case.operation == "crop" else whole,
        flip=torch.zeros(batch, dtype=torch.bool),
        factors=factors,
        grey=torch.full((batch,), case.operation == "grayscale"),
    )
    return dataclasses.replace(views, eight_bit=eight_bit).apply(case.images_u8.float() / 255, parameters)


def _kornia(case: Case) -> Tensor:
    """Apply what kornia's RandomResizedCrop, ColorJitter and RandomGrayscale call, as they call it."""
    import kornia.augmentation as K
    from kornia import enhance
    from kornia.geometry.transform import crop_by_indices

    images = case.images_u8.float() / 255
    if case.operation == "crop":
        return crop_by_indices(images, _corners(case.values), (OUT, OUT), "bilinear", align_corners=True)
    if case.operation == "grayscale":
        return K.RandomGrayscale(p=1.0)(images)
    adjust: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "brightness": enhance.adjust_brightness_accumulative,
        "contrast": enhance.adjust_contrast_with_mean_subtraction,
        "saturation": enhance.adjust_saturation_with_gray_subtraction,
        "hue": lambda given, turns: enhance.adjust_hue(given, 2 * math.pi * turns),
    }
    return adjust[case.operation](images, case.values).clamp(0, 1)


def _corners(boxes_B4: Tensor) -> Tensor:
    """Return kornia's form of boxes: four corners (x, y), clockwise from the top left, the last pixel included."""
    top, left, height, width = boxes_B4.unbind(dim=1)
    bottom, right = top + height - 1, left + width - 1
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack(corner, dim=1) for corner in corners], dim=1)
