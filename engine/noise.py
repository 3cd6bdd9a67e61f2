"""The noise of a training set while an attack learns it.

Shapes: N images of the set, B of a batch, K classes, C x H x W pixels; ``rows_B`` are the batch's indices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.perturbation import add_poison, chunks, initial_noise, project_linf
from engine.protocols import AttackContext, ImageSet, Poison


class Noise:
    """Noise for each image (granularity ``sample``) or for each class (``class``), inside its ball.

    ``values`` holds it in half precision, in units of epsilon. What a batch meets is taken out in pixel units with
    ``touched``, so that a gradient exists for those rows alone and never for the data set.
    """

    def __init__(
        self, images: ImageSet, context: AttackContext, *, granularity: str, epsilon: float, generator: torch.Generator
    ) -> None:
        self.images, self.perturbed = images, context.perturbed
        self.granularity, self.epsilon = granularity, epsilon
        self.values = initial_noise(context.init, images, granularity=granularity, epsilon=epsilon, generator=generator)
        self._perturbs_all = bool(context.perturbed.all())
        self.per_image = granularity == "sample"

    def draw_normal_(self, generator: torch.Generator) -> None:
        """Start anew from standard normal values in units of epsilon, clipped to the ball."""
        for rows in chunks(len(self.values)):
            self.values[rows] = torch.randn(self.values[rows].shape, generator=generator).clamp_(-1, 1)

    def clean(self, rows_B: Tensor) -> Tensor:
        """Return a batch of clean images [B, C, H, W] in [0, 1]."""
        return self.images.images_u8[rows_B].float() / 255

    def touched(self, rows_B: Tensor) -> Tensor:
        """Return the noise that a batch meets, in pixel units: [B, C, H, W], or that of all classes [K, C, H, W]."""
        values = self.values[rows_B] if self.granularity == "sample" else self.values
        return values.float() * self.epsilon

    def spread(self, touched: Tensor, rows_B: Tensor) -> Tensor:
        """Return the noise of each image of a batch [B, C, H, W], zero where an image stays clean."""
        delta = touched if self.granularity == "sample" else touched[self.images.labels[rows_B]]
        return delta if self._perturbs_all else delta * self.perturbed[rows_B, None, None, None]

    def confined(self, touched: Tensor, clean_BCHW: Tensor, rows_B: Tensor) -> Tensor:
        """Return ``touched`` clipped to where images stay in [0, 1]; noise that images share has no such place.

        A pixel beyond the range has no gradient; clipped, it may come back. What an image that stays clean would
        carry is left alone.
        """
        if not self.per_image:
            return touched
        inside = touched.clamp(-clean_BCHW, 1 - clean_BCHW)
        return inside if self._perturbs_all else torch.where(self.perturbed[rows_B, None, None, None], inside, touched)

    def write_(self, rows_B: Tensor, touched: Tensor) -> None:
        """Put back what ``touched`` took out."""
        values = (touched / self.epsilon).half()
        if self.granularity == "sample":
            self.values[rows_B] = values
        else:
            self.values = values

    def poisoned(self, rows_B: Tensor) -> Tensor:
        """Return a batch of images [B, C, H, W] with their noise, in [0, 1]."""
        return add_poison(self.clean(rows_B), self.spread(self.touched(rows_B), rows_B))

    def poison(self, *, image_views: int) -> Poison:
        """Return the finished product."""
        return Poison(self.values.cpu(), self.granularity, image_views, unit=self.epsilon)


class MemberNoise(Noise):
    """Class-wise noise that each image of a batch moves for itself; the class takes the mean of its members' results.

    Source: Huang et al. 2021, class-wise noise; He, Zha & Katabi instead step along the sum of the members' gradients.
    """

    def __init__(self, images: ImageSet, context: AttackContext, *, epsilon: float, generator: torch.Generator) -> None:
        super().__init__(images, context, granularity="class", epsilon=epsilon, generator=generator)
        self.per_image = True

    def touched(self, rows_B: Tensor) -> Tensor:
        """Return the noise of each image's class, in pixel units: [B, C, H, W]."""
        return self.values[self.images.labels[rows_B]].float() * self.epsilon

    def spread(self, touched: Tensor, rows_B: Tensor) -> Tensor:
        """Return the noise of each image of a batch [B, C, H, W], zero where an image stays clean."""
        return touched if self._perturbs_all else touched * self.perturbed[rows_B, None, None, None]

    def write_(self, rows_B: Tensor, touched: Tensor) -> None:
        """Give each class the mean over its perturbed images of the batch; one without any keeps its noise."""
        labels_B, counted_B = self.images.labels[rows_B], self.perturbed[rows_B].float()
        sums = torch.zeros(self.values.shape, device=touched.device)
        sums.index_add_(0, labels_B, touched * counted_B[:, None, None, None])
        counts = torch.zeros(len(sums), device=touched.device).index_add_(0, labels_B, counted_B)[:, None, None, None]
        means = project_linf(sums / counts.clamp_min(1), epsilon=self.epsilon)
        self.values = torch.where(counts > 0, (means / self.epsilon).half(), self.values)
