"""The chain's operations in Pillow's eight bits, exactly, with the gradient of their real-number forms.

Pillow keeps whole grey levels after every operation: it rounds after each pass of a resize, cuts fractions off in
brightness, contrast and saturation, and turns hues through an eight-bit HSV. Here the values are Pillow's; backwards,
each operation acts as if it had not been quantised (straight-through, Bengio et al. 2013).

Shapes: B images of 3 x H x W, RGB in [0, 1], whole multiples of 1/255.
Source: Pillow, Blend.c, Convert.c (L, HSV), Resample.c; torchvision, _functional_pil.py (adjust_hue).
Deviates: a resize takes its horizontal pass first, as in every Pillow up to 12. Pillow 13 (pull request 9549) takes
    the vertical one first where the height shrinks by more than twice as many pixels as the width; about a fifth of
    such an image's pixels are one level away from here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.views import color
from engine.views.color import BRIGHTNESS, CONTRAST

LUMA_16 = (19595, 38470, 7471)  # Convert.c: luma weights in 1/65536
WEIGHT_BITS = 22  # Resample.c, PRECISION_BITS
# In double precision a resize of whole levels with such weights is a multiple of 2^-22 up to 1e-11: this keeps halves
# halves. In single precision it is nothing.
TIE = 2.0 ** -(WEIGHT_BITS + 2)


def straight_through(levels: Tensor, smooth: Tensor) -> Tensor:
    """Return exact grey levels, in [0, 1], with the type and the gradient of another tensor."""
    return levels.to(smooth.dtype) / 255 + (smooth - smooth.detach())


def as_levels(images: Tensor) -> Tensor:
    """Return the nearest whole grey levels of values in [0, 1]."""
    return (images.detach() * 255 + (0.5 + TIE)).floor().clamp(0, 255)


def round_levels(images: Tensor) -> Tensor:
    """Round to whole grey levels, halves up, as Pillow does after each pass of a resize."""
    return straight_through(as_levels(images), images)


def load(images: Tensor) -> Tensor:
    """Return the images for a resize: whole grey levels, in double precision, so that its sums are exact."""
    return straight_through(as_levels(images), images.double())


def round_weights(weights: Tensor) -> Tensor:
    """Round the weights of a resize to Pillow's fixed-point numbers."""
    return (weights * 2**WEIGHT_BITS + 0.5).floor() / 2**WEIGHT_BITS


def _luma(levels_B3HW: Tensor) -> Tensor:
    red, green, blue = levels_B3HW.long().unbind(dim=1)
    weighted = LUMA_16[0] * red + LUMA_16[1] * green + LUMA_16[2] * blue
    return ((weighted + 0x8000) >> 16).to(levels_B3HW.dtype)


def blend(images_B3HW: Tensor, operation_B: Tensor, factor_B: Tensor) -> Tensor:
    """Adjust brightness, contrast or saturation, chosen per image, cutting fractions off."""
    levels = as_levels(images_B3HW).float()  # Blend.c computes in single precision
    grey = _luma(levels)[:, None]
    mean = (grey.mean(dim=(1, 2, 3), dtype=torch.float64, keepdim=True) + 0.5).floor().to(levels.dtype)
    operation, factor = operation_B[:, None, None, None], factor_B.float()[:, None, None, None]
    reference = torch.where(operation == CONTRAST, mean, torch.where(operation == BRIGHTNESS, 0, grey))
    # In Blend.c's order of operations, so that fractions are cut at the same values.
    blended = (reference + factor * (levels - reference)).clamp(0, 255).floor()
    return straight_through(blended, color.blend(images_B3HW, operation_B, factor_B))


def to_grey(images_B3HW: Tensor) -> Tensor:
    """Replace every pixel's channels by its luma, rounded."""
    levels = _luma(as_levels(images_B3HW))[:, None].expand_as(images_B3HW)
    return straight_through(levels, color.to_grey(images_B3HW))


def shift_hue(images_B3HW: Tensor, shift_B: Tensor) -> Tensor:
    """Rotate the hue in Pillow's eight-bit HSV by a whole number of its 256 steps.

    Units: shift in turns, [-0.5, 0.5]; the fraction of a step is cut off, as torchvision does.
    """
    hue, saturation, value = _to_hsv(as_levels(images_B3HW).double())
    steps = (shift_B.double() * 255).trunc()[:, None, None]
    levels = _to_rgb(torch.remainder(hue + steps, 256), saturation, value)
    return straight_through(levels, color.shift_hue(images_B3HW, shift_B))


def _to_hsv(levels_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    red, green, blue = levels_B3HW.unbind(dim=1)
    value, chroma = levels_B3HW.amax(dim=1), levels_B3HW.amax(dim=1) - levels_B3HW.amin(dim=1)
    # Convert.c divides in single precision.
    r, g, b = (((value - channel) / chroma.clamp_min(1)).float().double() for channel in (red, green, blue))
    sector = torch.where(red == value, b - g, torch.where(green == value, 2 + r - b, 4 + g - r)).float().double()
    hue = (torch.remainder(sector / 6 + 1, 1).float().double() * 255).trunc()
    saturation = ((chroma / value.clamp_min(1)).float().double() * 255).trunc()
    return hue, saturation, value


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    sixth = hue * 6 / 255
    fraction, chroma = sixth - sixth.floor(), saturation / 255
    low, falling, rising = (
        (value * (1 - chroma * part) + 0.5).floor() for part in (torch.ones_like(fraction), fraction, 1 - fraction)
    )
    by_sector = {
        "red": (value, falling, low, low, rising, value),
        "green": (rising, value, value, falling, low, low),
        "blue": (low, low, rising, value, value, falling),
    }
    sector = (sixth.floor().long() % 6)[None]
    return torch.stack([torch.stack(each).gather(0, sector)[0] for each in by_sector.values()], dim=1)
