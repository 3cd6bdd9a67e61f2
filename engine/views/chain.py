"""The augmentation chain of contrastive learning: crop, flip, colour jitter, grayscale."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.views.color import jitter, sample_orders, to_grey
from engine.views.geometry import crop_matrices, resample, sample_boxes


@dataclass(frozen=True)
class ViewParameters:
    """What one view does to each image of a batch: a row an image, on the CPU.

    Shapes: boxes [B, 4] (top, left, height, width), flip [B] bool, order [B, 4] (permutation of the
    jitter operations), factors [B, 4] (brightness, contrast, saturation, hue), grey [B] bool.
    """

    boxes: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        """Return the parameters of some of the images."""
        return ViewParameters(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Views:
    """A distribution over augmented views, in torchvision's terms.

    Units: crop_scale in fractions of the area, crop_ratio width over height; jitter is (brightness,
    contrast, saturation, hue) as in ``ColorJitter``; the rest are probabilities.
    """

    size: int
    crop_scale: tuple[float, float] | None
    crop_ratio: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jitter_probability: float
    grayscale: float

    def sample(self, generator: torch.Generator, batch: int, size_HW: tuple[int, int]) -> ViewParameters:
        """Draw the parameters of one view of a batch."""
        whole = torch.tensor([0, 0, *size_HW]).repeat(batch, 1)
        boxes = whole
        if self.crop_scale is not None:
            boxes = sample_boxes(generator, batch, size_HW, scale=self.crop_scale, ratio=self.crop_ratio)
        flip = torch.rand(batch, generator=generator) < self.flip
        jittered = torch.rand(batch, 1, generator=generator) < self.jitter_probability
        strength = torch.tensor(self.jitter)
        low = torch.cat([(1 - strength[:3]).clamp_min(0), -strength[3:]])
        high = torch.cat([1 + strength[:3], strength[3:]])
        factors = low + (high - low) * torch.rand(batch, 4, generator=generator)
        neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
        order = sample_orders(generator, batch)
        grey = torch.rand(batch, generator=generator) < self.grayscale
        return ViewParameters(boxes, flip, order, torch.where(jittered, factors, neutral), grey)

    def apply(self, images_BCHW: Tensor, parameters: ViewParameters) -> Tensor:
        """Return the views: [B, C, size, size], differentiable in the images, in [0, 1]."""
        device, (height, width) = images_BCHW.device, images_BCHW.shape[2:]
        boxes, flip = parameters.boxes.to(device), parameters.flip.to(device)
        rows, columns = crop_matrices(boxes, flip, (height, width), self.size)
        views = resample(images_BCHW, rows.to(images_BCHW), columns.to(images_BCHW))
        if any(self.jitter) and self.jitter_probability > 0:
            views = jitter(views, parameters.order, parameters.factors)
        greys = parameters.grey.nonzero().squeeze(1)
        if len(greys):
            rows = greys.to(device)
            views = views.index_copy(0, rows, to_grey(views[rows]))
        return views

    def __call__(self, generator: torch.Generator, images_BCHW: Tensor) -> Tensor:
        """Draw and apply one view of a batch."""
        height, width = images_BCHW.shape[2:]
        return self.apply(images_BCHW, self.sample(generator, len(images_BCHW), (height, width)))
