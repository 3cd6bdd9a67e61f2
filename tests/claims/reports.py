"""Reports of small studies with known answers, and claims about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from engine.artifacts.files import write_csv, write_json
from engine.claims.judging import JudgedClaim, judge
from engine.claims.records import Records
from engine.claims.spec import ClaimsFile

FLOOR = 20.0
Cells = Mapping[tuple[str, str, str, str], Sequence[float | None]]
"""Linear accuracies by poison, victim, defense and downstream set: a number a seed, None where it is missing."""


def write_accuracies(root: Path, study: str, cells: Cells, *, first_seed: int = 0) -> None:
    """Write what a report says of accuracies; an untrained network has ``FLOOR``, and kNN is ten points lower."""
    rows: list[dict[str, Any]] = []
    for (poison, victim, defense, downstream), accuracies in cells.items():
        twins = cells[("clean", victim, defense, downstream)]
        for place, (own, clean) in enumerate(zip(accuracies, twins, strict=True)):
            seed = first_seed + place
            drop = None if own is None or clean is None else clean - own
            row: dict[str, Any] = {"cell": f"{poison}-{victim}-{defense}-{seed}", "poison": poison, "victim": victim}
            row |= {"defense": defense, "seed": seed, "downstream": downstream, "linear": own}
            row |= {"knn": None if own is None else own - 10, "linear_drop": drop}
            row["linear_gain_removed"] = None if drop is None or clean is None else 100 * drop / (clean - FLOOR)
            rows.append(row | {"train_set": "clean", "select": "last"})
    untrained = {**dict.fromkeys(rows[0], ""), "cell": "(untrained)", "poison": "(untrained)", "seed": 0}
    write_csv(root / study / "accuracy.csv", [*rows, untrained])
    write_json(root / study / "study.json", {"study": {"dataset": "pets"}})


def write_separability(root: Path, study: str, **poisons: tuple[float | None, int]) -> None:
    """Write of every poison how separable its noise is (0 to 1), and on how many images that was judged."""
    rows = [
        {"poison": poison, "separability": share, "judged": images, "chance": 0.1}
        for poison, (share, images) in poisons.items()
    ]
    write_csv(root / study / "perturbations.csv", rows)


def write_training(root: Path, study: str, measures: Mapping[tuple[str, int], Mapping[str, float | None]]) -> None:
    """Write the measures of every poison and seed, on simclr without a defense."""
    rows = [
        {"poison": poison, "victim": "simclr", "defense": "none", "seed": seed, "loss": 1.0, **found}
        for (poison, seed), found in measures.items()
    ]
    write_csv(root / study / "training.csv", rows)


def claims_of(*effects: Mapping[str, Any], at: Mapping[str, Any] | None = None, **more: Any) -> ClaimsFile:
    """Return one claim of some effects on simclr without a defense, judged by the linear probe."""
    outside = {"study": "small", "victim": "simclr", "defense": "none", "metric": "linear", **(at or {})}
    declared = [{"says": "it happens", **effect} for effect in effects]
    claim = {"id": "C1", "says": "Something happens.", "source": "Table 1", "effects": declared, **more}
    content = {"work": "Somebody's work", "at": outside, "claims": [claim]}
    return TypeAdapter(ClaimsFile).validate_python(content, strict=False)


def judged(root: Path, *effects: Mapping[str, Any], **more: Any) -> JudgedClaim:
    """Return the verdict on one claim of some effects."""
    (claim,) = judge([claims_of(*effects, **more)], Records(root))
    return claim
