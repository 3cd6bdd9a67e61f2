"""What features and perturbations are like: tensors in, numbers out."""

from engine.analysis.embedding import embed_tsne
from engine.analysis.features import alignment, distance_histogram, uniformity
from engine.analysis.fidelity import psnr, ssim
from engine.analysis.rows import principal_coordinates, ranks_in_class
from engine.analysis.separability import linear_separability
from engine.analysis.spectrum import radial_spectrum

__all__ = [
    "alignment",
    "distance_histogram",
    "embed_tsne",
    "linear_separability",
    "principal_coordinates",
    "psnr",
    "radial_spectrum",
    "ranks_in_class",
    "ssim",
    "uniformity",
]
