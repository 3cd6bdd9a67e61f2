"""Augmented views: sampled once as tensors, applied as often as wanted, differentiable in the image."""

from engine.views.chain import ViewParameters, Views

__all__ = ["ViewParameters", "Views"]
