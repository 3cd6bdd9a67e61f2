"""The vocabulary of claims: what a paper says, as inequalities between numbers that studies measure."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from engine.spec import NAME_PATTERN, Name, Spec, StudyName

Quantity = Literal[
    "removed",
    "drop",
    "accuracy",
    "alignment",
    "uniformity",
    "clean_alignment",
    "clean_uniformity",
    "separability",
]
"""What is measured, by the seeds of a cell but for ``separability``, which a poison has.

``removed`` (%): the share of the learned gain that the poison takes, 100 (clean - poisoned) / (clean - untrained).
``drop`` (points): clean minus poisoned. Both compare networks of the same seed under the same defense.
``accuracy`` (%). What a defense recovers is a difference of two: under the defense, minus without.
``alignment``, ``uniformity``: of the released images at the end of training; ``clean_``: of their originals.
``separability`` (%): the accuracy of a linear model on the poison's noise that it was not fitted to.
"""

Metric = Literal["linear", "knn", "head"]
Axis = Literal["poison", "victim", "defense", "downstream"]
AXES: tuple[Axis, ...] = typing.get_args(Axis)


def _some(given: tuple[Any, ...]) -> tuple[Any, ...]:
    if not given:
        raise ValueError("must hold one or more")
    return given


SOME = (AfterValidator(_some), Field(json_schema_extra={"minItems": 1}))
"""One or more; pydantic's own ``min_length`` also complains where there are some and all are faulty."""


def _listed(given: Any) -> Any:
    if isinstance(given, str):
        return (given,)
    return tuple(given) if isinstance(given, list) else given


Names = Annotated[
    tuple[Name, ...],
    AfterValidator(_some),
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": NAME_PATTERN},
                {"type": "array", "items": {"type": "string", "pattern": NAME_PATTERN}, "minItems": 1},
            ]
        }
    ),
]
"""A name, or several: the mean over them, seed by seed."""


class Place(Spec):
    """Where something is measured, or a part of that: what is not given comes from the next place outside.

    ``downstream`` is the study's own data set where nobody gives it.
    """

    study: StudyName | None = None
    poison: Names | None = None
    victim: Names | None = None
    defense: Names | None = None
    downstream: Names | None = None
    metric: Metric | None = None

    def given(self) -> dict[str, Any]:
        """Return what the place says itself."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}


class ValueSpec(Place):
    """A quantity at a place."""

    quantity: Quantity


class OtherSpec(Place):
    """What a value is compared with: the same value but for what is given."""

    quantity: Quantity | None = None


class EffectSpec(Spec):
    """One inequality: a value, or a difference of two, beyond a threshold.

    With ``each`` it stands for several, one for every combination of the names.
    """

    says: Annotated[str, Field(min_length=1)]
    each: dict[Axis, Annotated[tuple[Name, ...], *SOME]] = Field(default_factory=dict)
    value: ValueSpec
    minus: OtherSpec | None = None
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _is_one_inequality(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError("above: give either above or below")
        if taken := [axis for axis in self.each if getattr(self.value, axis) is not None]:
            raise ValueError(f"value.{taken[0]}: each gives it already")
        return self


class ClaimSpec(Spec):
    """What a paper says; it is reproduced where every effect holds.

    ``source`` says where the paper says it. ``explanation`` is ours, and shown only while the claim is not reproduced.
    """

    id: Annotated[str, Field(pattern=r"^[A-Z]+[0-9]+$")]
    says: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    at: Place = Place()
    effects: Annotated[tuple[EffectSpec, ...], *SOME]
    explanation: Annotated[str, Field(min_length=1)] | None = None


class ClaimsFile(Spec):
    """Everything that one work claims; ``at`` holds for all of its claims."""

    work: Annotated[str, Field(min_length=1)]
    at: Place = Place()
    claims: Annotated[tuple[ClaimSpec, ...], *SOME]
