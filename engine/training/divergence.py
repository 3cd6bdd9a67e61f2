"""What is known of a training or a search whose loss is no finite number any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Diverged(EngineError):
    """A loss is no finite number; ``tensors`` and ``about``, plain values, are what there is to inspect."""

    def __init__(self, message: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        super().__init__(message)
        self.tensors, self.about = tensors, about


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights under the names by which a saved state holds them."""
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
