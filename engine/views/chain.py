"""The augmentation chain of contrastive learning: crop or shift, flip, jitter, grayscale, blur, solarize."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engine.processes import Share
from engine.transfer import to_device
from engine.views.arithmetic import EIGHT_BIT, FLOAT, Arithmetic, on_some
from engine.views.blur import blur
from engine.views.color import sample_orders, solarize
from engine.views.fused import can_fuse, fused_views
from engine.views.geometry import resample, resample_ragged, sample_boxes, view_matrices
from engine.views.images import Images, Ragged, sizes_of


@dataclass(frozen=True)
class ViewParameters:
    """What one view does to each image of a batch: a row an image, on the CPU.

    Shapes: boxes float [B, 4] (top, left, height, width), flip [B] bool, order [B, 4] (permutation of the
    jitter operations), factors [B, 4] (brightness, contrast, saturation, hue), grey [B] bool, sigma [B] (of the
    blur in pixels of the view, 0 for none), solarized [B] bool.
    """

    boxes: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor
    sigma: Tensor
    solarized: Tensor

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        """Return the parameters of some of the images."""
        return ViewParameters(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Views:
    """A distribution over augmented views, in torchvision's terms.

    Units: crop_scale in fractions of the area, crop_ratio width over height; padding and shift in pixels; jitter is
    (brightness, contrast, saturation, hue) as in ``ColorJitter``; blur_sigma in pixels of the view; the threshold
    in [0, 1]; flip, grayscale and what ends in ``probability`` are probabilities.
    """

    size: int
    crop_scale: tuple[float, float] | None
    crop_ratio: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jitter_probability: float
    grayscale: float
    padding: int = 0
    shift: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 23
    solarize_probability: float = 0.0
    solarize_threshold: float = 128 / 255
    eight_bit: bool = False

    @property
    def is_jittering(self) -> bool:
        """Tell whether the chain has a colour jitter."""
        return any(self.jitter) and self.jitter_probability > 0

    def sample(self, generator: torch.Generator, batch: int, size_HW: tuple[int, int] | Tensor) -> ViewParameters:
        """Draw the parameters of one view of a batch of one size, or of the sizes [B, 2] of a ragged one."""
        sizes = torch.as_tensor(size_HW).expand(batch, 2)
        boxes = self._sample_boxes(generator, sizes)
        flip = torch.rand(batch, generator=generator) < self.flip
        jittered = torch.rand(batch, 1, generator=generator) < self.jitter_probability
        strength = torch.tensor(self.jitter)
        low = torch.cat([(1 - strength[:3]).clamp_min(0), -strength[3:]])
        high = torch.cat([1 + strength[:3], strength[3:]])
        factors = low + (high - low) * torch.rand(batch, 4, generator=generator)
        neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
        order = sample_orders(generator, batch)
        grey = torch.rand(batch, generator=generator) < self.grayscale
        sigma = torch.empty(batch).uniform_(*self.blur_sigma, generator=generator)
        blurred = torch.rand(batch, generator=generator) < self.blur_probability
        solarized = torch.rand(batch, generator=generator) < self.solarize_probability
        return ViewParameters(
            boxes, flip, order, torch.where(jittered, factors, neutral), grey, sigma * blurred, solarized
        )

    def _sample_boxes(self, generator: torch.Generator, sizes_B2: Tensor) -> Tensor:
        if self.crop_scale is not None:
            return sample_boxes(generator, sizes_B2, scale=self.crop_scale, ratio=self.crop_ratio)
        corners = torch.zeros(len(sizes_B2), 2)
        if self.padding:
            corners = torch.randint(-self.padding, self.padding + 1, corners.shape, generator=generator).float()
        if self.shift:
            corners = torch.empty_like(corners).uniform_(-self.shift, self.shift, generator=generator)
        return torch.cat([corners, sizes_B2.float()], dim=1)

    def apply(self, images: Images, parameters: ViewParameters) -> Tensor:
        """Return the views: [B, 3, size, size], differentiable in the images, in [0, 1].

        The same parameters give the same bits, whichever images share a call, when compiled or in eight bits;
        torch's matrix products may differ in the last ones.
        """
        if not self.eight_bit and can_fuse(images):
            jitter = (parameters.order, parameters.factors) if self.is_jittering else None
            views = fused_views(images, parameters.boxes, parameters.flip, jitter, parameters.grey, self.size)
            return self._filtered(views, parameters, FLOAT)
        return self._in_turn(images, parameters, EIGHT_BIT if self.eight_bit else FLOAT)

    def _in_turn(self, images: Images, parameters: ViewParameters, arithmetic: Arithmetic) -> Tensor:
        """Apply operation after operation with torch: any device, any type, or eight bits."""
        boxes, flip = parameters.boxes, parameters.flip
        if isinstance(images, Ragged):
            loaded = Ragged(arithmetic.load(images.pixels), images.sizes)
            views = resample_ragged(loaded, boxes, flip, self.size, arithmetic.weigh, arithmetic.store)
        else:
            pixels = arithmetic.load(images)
            height, width = images.shape[2:]
            margin = math.ceil(max(self.padding, self.shift))
            on_device = to_device(boxes, images.device, pixels.dtype), to_device(flip, images.device)
            rows, columns = view_matrices(*on_device, (height, width), self.size, margin=margin)
            views = resample(pixels, arithmetic.weigh(rows), arithmetic.weigh(columns), arithmetic.store)
        views = views.to(images.dtype)
        if self.is_jittering:
            views = arithmetic.jitter(views, parameters.order, parameters.factors)
        views = on_some(parameters.grey, views, arithmetic.to_grey)
        return self._filtered(views, parameters, arithmetic)

    def _filtered(self, views_B3HW: Tensor, parameters: ViewParameters, arithmetic: Arithmetic) -> Tensor:
        if self.blur_probability > 0:
            views_B3HW = on_some(
                parameters.sigma > 0,
                views_B3HW,
                lambda chosen, sigma: arithmetic.store(blur(chosen, sigma, self.blur_kernel)),
                parameters.sigma,
            )
        if self.solarize_probability > 0:
            views_B3HW = on_some(
                parameters.solarized, views_B3HW, lambda chosen: solarize(chosen, self.solarize_threshold)
            )
        return views_B3HW

    def __call__(self, generator: torch.Generator, images: Images, share: Share | None = None) -> Tensor:
        """Draw and apply one view of a batch, or of a process's share of one, whose images have one size."""
        if share is None or not share.is_split:
            return self.apply(images, self.sample(generator, len(images), sizes_of(images)))
        assert isinstance(images, Tensor)
        return self.apply(images, self.sample(generator, share.batch, sizes_of(images)[0])[share.rows])
