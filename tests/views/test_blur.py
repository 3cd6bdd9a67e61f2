"""Gaussian blur against torchvision's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as TF

from engine.randomness import stream
from engine.views.blur import blur, blur_matrices

Photograph = Callable[[int, int, int], Tensor]
SIGMAS = torch.tensor([0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 5.0])


@pytest.mark.parametrize(
    ("height", "width", "kernel"),
    [(32, 32, 3), (32, 32, 23), (12, 30, 23), (40, 25, 9), (7, 9, 1)],
    ids=["a tenth of CIFAR", "23 on 32", "the kernel reaches across", "not square", "a single tap"],
)
def test_a_blur_is_torchvisions_for_every_sigma(photograph: Photograph, height: int, width: int, kernel: int) -> None:
    images = torch.stack([photograph(seed, height, width) for seed in range(len(SIGMAS))]).float() / 255
    expected = [
        TF.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
        for image, sigma in zip(images, SIGMAS.tolist(), strict=True)
    ]
    torch.testing.assert_close(blur(images, SIGMAS, kernel), torch.stack(expected), atol=1e-5, rtol=0)


def test_weights_sum_to_one_and_mirror_the_border_without_repeating_it() -> None:
    matrices = blur_matrices(torch.tensor([0.5, 3.0]), 5, 6)
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(2, 6))
    taps = torch.exp(-0.5 * (torch.arange(-2, 3) / 3.0) ** 2)
    first, second, middle, *_ = taps / taps.sum()
    # Around the first pixel lie 2 1 [0] 1 2.
    torch.testing.assert_close(matrices[1, 0], torch.stack([middle, 2 * second, 2 * first, *torch.zeros(3)]))


def test_a_small_sigma_leaves_an_image_as_it_is(photograph: Photograph) -> None:
    image = photograph(0, 16, 16).float()[None] / 255
    assert torch.equal(blur(image, torch.tensor([0.01]), 5), image)


def test_a_blur_has_its_numerical_gradient() -> None:
    images = torch.rand(2, 3, 4, 5, generator=stream(0, "images"), dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.4, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: blur(x, sigma, 5), images)


def test_a_kernel_that_reaches_over_the_image_is_refused() -> None:
    images = torch.rand(1, 3, 11, 20, generator=stream(0, "images"))
    assert blur(images, torch.tensor([1.0]), 21).shape == images.shape
    with pytest.raises(ValueError, match="kernel of 23 needs images of more than 11 pixels, got 11"):
        blur(images, torch.tensor([1.0]), 23)
