"""What a poison's perturbation is like: how visible, how separable, at which frequencies, as points of a plane.

Measured where poisons are made, because the clean images are at hand there.

Shapes: n images, at most ``MOST``, evenly from the classes; R distances in the frequency plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.randomness import stream

if TYPE_CHECKING:
    from torch import Tensor

    from engine.protocols import ImageSet, Poison

MOST = 1_000
"""Images of a poison that are looked at."""
POINTS = 500
"""Images of a poison that t-SNE places: its time grows faster than their number."""
DIGITS = 6
"""Significant digits of a spectrum."""
NOTHING: dict[str, Any] = {
    "images": 0,
    **dict.fromkeys(("psnr", "ssim", "l2", "separability", "chance")),
    "labels": [],
    **dict.fromkeys(("points", "spectrum", "clean_spectrum")),
}
"""What is said of a poison that perturbs no image."""


def measure_perturbation(clean: ImageSet, released_u8: Tensor, poison: Poison, perturbed: Tensor) -> dict[str, Any]:
    """Return what a poison adds to images, as plain values.

    What is added is looked at before it is clipped to the range of pixels; what it does to images is measured on the
    released ones.

    Shapes: released_u8 uint8 [N, 3, H, W]; perturbed bool [N]; poison.noise int8.
    Units: poison.noise in grey levels; spectra in their square.
    """
    from engine.analysis import embed_tsne, linear_separability, radial_spectrum

    places = choose(clean.labels, perturbed)
    if not len(places) or not poison.noise.any():
        return NOTHING
    labels, originals = clean.labels[places], clean.images_u8[places]
    levels = poison.noise[labels if poison.granularity == "class" else places].float()
    separability = linear_separability(levels, labels, generator=stream(0, "perturbation", "halves"))
    points = embed_tsne(levels[:POINTS])
    return {
        "images": len(labels),
        **_visibility(originals.float() / 255, released_u8[places].float() / 255),
        "separability": None if separability is None else round(separability, 4),
        "chance": round(float(labels.bincount().max() / len(labels)), 4),
        "labels": labels.tolist(),
        "points": None if points is None else [[round(x, 3), round(y, 3)] for x, y in points.tolist()],
        "spectrum": _rounded(radial_spectrum(levels)),
        "clean_spectrum": _rounded(radial_spectrum(originals.float())),
    }


def choose(labels: Tensor, perturbed: Tensor) -> Tensor:
    """Return the places of images to look at: perturbed ones, evenly from the classes.

    In a random order, so that the first of them are a sample too.
    """
    import torch

    from engine.analysis import ranks_in_class

    candidates = perturbed.nonzero().squeeze(1)
    draws = stream(0, "perturbation", "images")
    candidates = candidates[torch.randperm(len(candidates), generator=draws)]
    return candidates[ranks_in_class(labels[candidates], draws).argsort(stable=True)[:MOST]]


def _visibility(clean: Tensor, released: Tensor) -> dict[str, float | None]:
    """Return the mean PSNR (of the images that differ), SSIM and Euclidean difference.

    Units: images and differences in [0, 1] pixel range, PSNR in decibels.
    """
    from engine.analysis import psnr, ssim

    ratios = psnr(clean, released)
    ratios = ratios[ratios.isfinite()]
    return {
        "psnr": round(ratios.mean().item(), 4) if len(ratios) else None,
        "ssim": round(ssim(clean, released).mean().item(), 4),
        "l2": round((released - clean).flatten(1).norm(dim=1).double().mean().item(), 4),
    }


def _rounded(spectrum: Tensor) -> list[float]:
    return [float(f"{power:.{DIGITS}g}") for power in spectrum.tolist()]
