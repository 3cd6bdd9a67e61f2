"""How numbers are written for people: never a bare mean of several seeds, never a number without its unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.reporting.results import PoisonFacts
from engine.reporting.tables import UNTRAINED, Row, Spread, Summary, measures_of
from engine.study import StudySpec

NOTHING = "\N{EN DASH}"
PROBED = {"linear": "linear", "knn": "kNN"}


@dataclass(frozen=True)
class Column:
    """A column of the accuracy table."""

    measure: str
    title: str
    unit: str
    digits: int = 1
    is_compared: bool = True

    @property
    def heading(self) -> str:
        """Return the title with its unit."""
        return f"{self.title} ({self.unit})"


COLUMNS = (
    Column("linear", "linear", "%", is_compared=False),
    Column("linear_drop", "drop", "points"),
    Column("linear_gain_removed", "gain removed", "%", 0),
    Column("knn", "kNN", "%", is_compared=False),
    Column("knn_drop", "drop", "points"),
    Column("knn_gain_removed", "gain removed", "%", 0),
)
OWN_COLUMNS = (
    Column("head", "own classifier", "%", is_compared=False),
    Column("head_drop", "drop", "points"),
    Column("head_gain_removed", "gain removed", "%", 0),
)
"""Stand beside the others where a learner of the study has a classifier of its own."""


def columns_of(rows: Iterable[Row]) -> tuple[Column, ...]:
    """Return the columns that some rows can fill."""
    measures = measures_of(rows)
    return tuple(column for column in (*COLUMNS, *OWN_COLUMNS) if column.measure in measures)


def number(value: float, digits: int = 1) -> str:
    """Write a number with a true minus sign, and zero without one."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def plural(count: int, noun: str) -> str:
    """Write how many things there are."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def mean_and_sd(spread: Spread | None, digits: int = 1) -> str:
    """Write a mean with its standard deviation, or one value as it is."""
    if spread is None:
        return NOTHING
    if spread.sd is None:
        return number(spread.mean, digits)
    return f"{number(spread.mean, digits)} ± {number(spread.sd, digits)}"


def of_seeds(spread: Spread | None, wanted: int) -> str:
    """Write a mean with its standard deviation, and over how many seeds where some are missing."""
    note = f" (n = {spread.n})" if spread and spread.n != wanted else ""
    return f"{mean_and_sd(spread)}{note}"


def learner(summary: Summary, study: StudySpec) -> str:
    """Write who trained: the victim, and its defense where the study has several."""
    return f"{summary.victim} under {summary.defense}" if len(study.defenses) > 1 else summary.victim


def interval(spread: Spread | None, digits: int = 1) -> str:
    """Write the 95 % confidence interval of a mean, or nothing where one value has none."""
    if spread is None or spread.low is None or spread.high is None:
        return ""
    return f"[{number(spread.low, digits)}, {number(spread.high, digits)}]"


def cell(summary: Summary, column: Column, reference: str | None) -> tuple[str, str]:
    """Write one cell of the accuracy table: the number, and what it needs beside it.

    Beside it stand the interval of a paired difference, and n where it is not the row's.
    """
    if column.is_compared and summary.poison in (reference, UNTRAINED):
        return NOTHING, ""
    spread = summary.spreads[column.measure]
    accuracy = summary.spreads["linear"]
    beside = [interval(spread, column.digits)] if column.measure.endswith("_drop") else []
    if spread and accuracy and spread.n != accuracy.n:
        beside.append(f"n = {spread.n}")
    return mean_and_sd(spread, column.digits), " ".join(filter(None, beside))


def count_of(summary: Summary) -> str:
    """Write over how many seeds a row is, and how many there should be."""
    accuracy = summary.spreads["linear"]
    found, wanted = accuracy.n if accuracy else 0, len(summary.rows)
    return str(found) if found == wanted else f"{found} of {wanted}"


def name_of(poison: str) -> str:
    """Write the name of a poison, or say that nothing was trained."""
    return "untrained" if poison == UNTRAINED else poison


def missing_note(summary: Summary) -> str:
    """Say what to run where a row has no accuracy at all."""
    more = f" and {len(summary.missing) - 1} more" if len(summary.missing) > 1 else ""
    return f"missing: run `dvc repro {summary.missing[0]}`{more}"


def budget_sentence(facts: PoisonFacts) -> str:
    """Say how far the released pixels are from the originals, and how far they may be."""
    if facts.manifest is None:
        return "The poisoned data set is missing."
    if facts.is_reference and facts.manifest["max_difference_levels"] == 0:
        return "Not a pixel differs from the original images."
    if withheld := facts.manifest.get("withheld"):
        whole = facts.manifest["images"] + withheld
        return f"Not a pixel differs from the original images, of which {withheld:,} of {whole:,} are withheld."
    levels, budget = facts.manifest["max_difference_levels"], 255 * facts.manifest["epsilon"]
    measured = f"No pixel value differs by more than {plural(levels, 'grey level')} (of 255)"
    excess = "; this is over the budget" if levels > budget + 1e-6 else ""
    changed, images = facts.manifest["perturbed"], facts.manifest["images"]
    share = f" {number(100 * changed / images)} % of the images are perturbed." if changed < images else ""
    return f"{measured}; the budget is {_levels(budget)}{excess}.{share}"


def budget_note(facts: PoisonFacts) -> str:
    """Say the same in a few words."""
    if facts.manifest is None:
        return "missing"
    largest, budget = facts.manifest["max_difference_levels"], 255 * facts.manifest["epsilon"]
    return f"largest difference {largest} of {_levels(budget)} grey levels"


def _levels(budget: float) -> str:
    return number(budget, 0 if abs(budget - round(budget)) < 1e-6 else 1)


def headline(summary: Summary, who: str, measure: str, *, is_reference: bool, is_least: bool) -> str:
    """Say what one poison does to one learner, in the measure that counts for it.

    ``is_least``: of several learners, this is the one that suffers least.
    """
    found = summary.spreads[measure]
    if found is None:
        return missing_note(summary).replace("missing", "No accuracy yet", 1) + "."
    who = f"Even {who}, the learner that suffers least," if is_least else who
    over = f"mean ± standard deviation of {found.n} seeds" if found.n > 1 else "one seed"
    how = "" if measure == "linear" else " with its own classifier"
    beside = [f"{label} {mean_and_sd(summary.spreads[probe])} %" for probe, label in PROBED.items() if probe != measure]
    reached = f"{who} reaches {mean_and_sd(found)} %{how} ({', '.join([*beside, over])})"
    if is_reference:
        return f"Trained on clean images, {reached}."
    return f"{reached}{_against_clean(summary, measure)}."


def _against_clean(summary: Summary, measure: str) -> str:
    drop, share = summary.spreads[f"{measure}_drop"], summary.spreads[f"{measure}_gain_removed"]
    if drop is None:
        return "; there is no clean result to compare it with"
    side = "below" if drop.mean >= 0 else "above"
    ends = (drop.low, drop.high) if drop.low is not None and drop.high is not None else None
    if ends and drop.mean < 0:
        ends = (-ends[1], -ends[0])
    between = f", 95 % confidence interval [{number(ends[0])}, {number(ends[1])}]" if ends else ""
    text = f", {number(abs(drop.mean))} points {side} clean training{between}"
    if share is None:
        return text
    return f"{text}; the poison removes {mean_and_sd(share, 0)} % of what training adds to an untrained network"
