"""How a chain computes: in real numbers, or in Pillow's eight bits, with the same gradient.

Shapes: B images of 3 x H x W, RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from engine.transfer import to_device
from engine.views import color, eight_bit
from engine.views.color import HUE
from engine.views.geometry import unchanged


@dataclass(frozen=True)
class Arithmetic:
    """The operations of a chain, in one kind of numbers."""

    load: Callable[[Tensor], Tensor]
    """What becomes of the pixels before a resize."""
    weigh: Callable[[Tensor], Tensor]
    """What becomes of the weights of a resize."""
    store: Callable[[Tensor], Tensor]
    """What becomes of the result of a filter."""
    blend: Callable[[Tensor, Tensor, Tensor], Tensor]
    shift_hue: Callable[[Tensor, Tensor], Tensor]
    to_grey: Callable[[Tensor], Tensor]

    def jitter(self, images_B3HW: Tensor, order_B4: Tensor, factors_B4: Tensor) -> Tensor:
        """Apply the four jitter operations, every image in its own order.

        Shapes: order and factors on the CPU; the columns of factors_B4 are brightness, contrast, saturation
        (1 leaves as is) and hue (0 does).
        """
        for slot in range(4):
            operation_B = order_B4[:, slot]
            factor_B = factors_B4.gather(1, operation_B[:, None]).squeeze(1)
            is_hue_B = operation_B == HUE
            turning = is_hue_B & (factor_B != 0)
            blending = ~is_hue_B & (factor_B != 1)
            images_B3HW = on_some(blending, images_B3HW, self.blend, operation_B, factor_B)
            images_B3HW = on_some(turning, images_B3HW, self.shift_hue, factor_B)
        return images_B3HW


def on_some(chosen_B: Tensor, images_B3HW: Tensor, operation: Callable[..., Tensor], *parameters_B: Tensor) -> Tensor:
    """Apply an operation to some images of a batch, with their parameters; all but the images are on the CPU."""
    rows = chosen_B.nonzero().squeeze(1)  # on the CPU, so that no GPU is waited for
    if len(rows) == 0:
        return images_B3HW
    device, dtype = images_B3HW.device, images_B3HW.dtype
    own = [to_device(each[rows], device, dtype if each.is_floating_point() else None) for each in parameters_B]
    rows = to_device(rows, device)
    return images_B3HW.index_copy(0, rows, operation(images_B3HW[rows], *own))


FLOAT = Arithmetic(unchanged, unchanged, unchanged, color.blend, color.shift_hue, color.to_grey)
EIGHT_BIT = Arithmetic(
    eight_bit.load,
    eight_bit.round_weights,
    eight_bit.round_levels,
    eight_bit.blend,
    eight_bit.shift_hue,
    eight_bit.to_grey,
)
