"""Augmented views: sampled once as tensors, applied as often as wanted, differentiable in the image."""

from engine.views.chain import ViewParameters, Views
from engine.views.images import Images, Ragged, pack

__all__ = ["Images", "Ragged", "ViewParameters", "Views", "pack"]
