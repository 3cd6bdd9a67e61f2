"""The noise of a training set while an attack learns it.

Shapes: N images of the set, B of a batch, b of this process's share of it, K classes, C x H x W pixels; ``rows_B``
are the batch's indices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.perturbation import add_poison, chunks, noise_parts, noise_shape, project_linf
from engine.processes import share_of
from engine.protocols import AttackContext, ImageSet, Poison
from engine.sharding import EveryRow, SharedRows


class Noise:
    """Noise for each image (granularity ``sample``) or for each class (``class``), inside its ball.

    ``values`` holds it in half precision, in units of epsilon. What a batch meets is taken out in pixel units with
    ``touched``, so that a gradient exists for those rows alone and never for the data set.

    Every method is given the rows of a whole batch, and concerns this process's share of them: b of B. Noise of images
    is shared out among processes, that of classes is with each.
    """

    def __init__(
        self, images: ImageSet, context: AttackContext, *, granularity: str, epsilon: float, generator: torch.Generator
    ) -> None:
        self.images, self.perturbed = images, context.perturbed
        self.granularity, self.epsilon = granularity, epsilon
        shape, device = noise_shape(images, granularity), images.images_u8.device
        self.per_image = granularity == "sample"
        table = SharedRows if self.per_image else EveryRow
        self.values: SharedRows | EveryRow = table(shape[0], shape[1:], torch.float16, device)
        how = {"granularity": granularity, "epsilon": epsilon, "generator": generator}
        for rows, values in noise_parts(context.init, images, **how):  # type: ignore[arg-type]
            self.values.put_(rows, values.to(device))
        self._perturbs_all = bool(context.perturbed.all())

    def draw_normal_(self, generator: torch.Generator) -> None:
        """Start anew from standard normal values in units of epsilon, clipped to the ball."""
        shape, device = noise_shape(self.images, self.granularity), self.images.images_u8.device
        for rows in chunks(shape[0]):
            drawn = torch.randn((rows.stop - rows.start, *shape[1:]), generator=generator).clamp_(-1, 1)
            self.values.put_(rows, drawn.half().to(device))

    def clean(self, rows_B: Tensor) -> Tensor:
        """Return clean images [b, C, H, W] in [0, 1]."""
        return self.images.images_u8[_own(rows_B)].float() / 255

    def labels(self, rows_B: Tensor) -> Tensor:
        """Return labels [b]."""
        return self.images.labels[_own(rows_B)]

    def counted(self, rows_B: Tensor) -> Tensor:
        """Return which images may change: bool [b]."""
        return self.perturbed[_own(rows_B)]

    def touched(self, rows_B: Tensor) -> Tensor:
        """Return the noise that a batch meets, in pixel units: [b, C, H, W], or that of all classes [K, C, H, W]."""
        return self.values.read(rows_B).float() * self.epsilon

    def spread(self, touched: Tensor, rows_B: Tensor) -> Tensor:
        """Return the noise of each image [b, C, H, W], zero where an image stays clean."""
        delta = touched if self.granularity == "sample" else touched[self.labels(rows_B)]
        return delta if self._perturbs_all else delta * self.counted(rows_B)[:, None, None, None]

    def gradient(self, grad: Tensor, rows_B: Tensor) -> Tensor:
        """Return the whole batch's gradient in ``touched``, given that of this process's images.

        Its length is that of the sum of all processes' losses: of a step along its sign, only that counts.
        """
        return grad if self.per_image else share_of(len(rows_B)).total(grad)

    def confined(self, touched: Tensor, clean_bCHW: Tensor, rows_B: Tensor) -> Tensor:
        """Return ``touched`` clipped to where images stay in [0, 1]; noise that images share has no such place.

        A pixel beyond the range has no gradient; clipped, it may come back. What an image that stays clean would
        carry is left alone.
        """
        if not self.per_image:
            return touched
        inside = touched.clamp(-clean_bCHW, 1 - clean_bCHW)
        return inside if self._perturbs_all else torch.where(self.counted(rows_B)[:, None, None, None], inside, touched)

    def write_(self, rows_B: Tensor, touched: Tensor) -> None:
        """Put back what ``touched`` took out."""
        self.values.write_(rows_B, (touched / self.epsilon).half())

    def poisoned(self, rows_B: Tensor) -> Tensor:
        """Return images [b, C, H, W] with their noise, in [0, 1]."""
        return add_poison(self.clean(rows_B), self.spread(self.touched(rows_B), rows_B))

    def poison(self, surrogate: nn.Module, *, image_views: int) -> Poison:
        """Return the finished product; on other processes than the first, without its noise."""
        weights = {name: tensor.detach().cpu() for name, tensor in surrogate.state_dict().items()}
        return Poison(self.values.whole(), self.granularity, image_views, unit=self.epsilon, surrogate=weights)


class MemberNoise(Noise):
    """Class-wise noise that each image of a batch moves for itself; the class takes the mean of its members' results.

    Source: Huang et al. 2021, class-wise noise; He, Zha & Katabi instead step along the sum of the members' gradients.
    """

    def __init__(self, images: ImageSet, context: AttackContext, *, epsilon: float, generator: torch.Generator) -> None:
        super().__init__(images, context, granularity="class", epsilon=epsilon, generator=generator)
        self.per_image = True

    def touched(self, rows_B: Tensor) -> Tensor:
        """Return the noise of each image's class, in pixel units: [b, C, H, W]."""
        return self.values.read(rows_B)[self.labels(rows_B)].float() * self.epsilon

    def spread(self, touched: Tensor, rows_B: Tensor) -> Tensor:
        """Return the noise of each image [b, C, H, W], zero where an image stays clean."""
        return touched if self._perturbs_all else touched * self.counted(rows_B)[:, None, None, None]

    def write_(self, rows_B: Tensor, touched: Tensor) -> None:
        """Give each class the mean over its perturbed images of the batch; one without any keeps its noise."""
        labels_b, counted_b = self.labels(rows_B), self.counted(rows_B).float()
        classes, share = self.values.read(rows_B), share_of(len(rows_B))
        sums = torch.zeros(classes.shape, device=touched.device)
        sums = share.total(sums.index_add_(0, labels_b, touched * counted_b[:, None, None, None]))
        counts = share.total(torch.zeros(len(sums), device=touched.device).index_add_(0, labels_b, counted_b))
        means = project_linf(sums / counts[:, None, None, None].clamp_min(1), epsilon=self.epsilon)
        values = torch.where(counts[:, None, None, None] > 0, (means / self.epsilon).half(), classes)
        self.values.write_(rows_B, values)


def _own(rows_B: Tensor) -> Tensor:
    return share_of(len(rows_B)).of(rows_B)
