"""Protect: an owner's own images, perturbed at full size, and a verdict on what a thief still learns from them."""
