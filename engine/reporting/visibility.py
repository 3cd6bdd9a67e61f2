"""How visible perturbations are and how separable, as a table."""

from __future__ import annotations

from typing import Any

from engine.reporting.board import UNKNOWN, Board
from engine.reporting.wording import number


def visibility_board(records: list[dict[str, Any]]) -> Board:
    """Return the table of what was measured of every poison's perturbations."""
    units = {"psnr": 1, "ssim": 3, "linf_levels": 0, "l2": 2, "separability": 2, "chance": 2}
    written = [
        (
            *(record["poison"], f"{record['images']:,}"),
            *(UNKNOWN if record[key] is None else number(record[key], digits) for key, digits in units.items()),
        )
        for record in records
    ]
    return Board(
        "perturbations",
        "Visibility and separability",
        "Of images chosen evenly from the classes: the mean PSNR of those that differ from their originals, the mean "
        "SSIM, the largest difference of a pixel value, the mean Euclidean difference of an image in [0, 1] pixel "
        "range; and how well a logistic regression tells classes by the perturbation alone, on the half that it was "
        "not fitted to, beside the accuracy of a guess.",
        (
            *("poison", "images", "PSNR (dB)", "SSIM", "largest difference (grey levels)", "L2 difference"),
            *("linear separability", "chance"),
        ),
        tuple(written),
        frozenset({0}),
        records,
    )
