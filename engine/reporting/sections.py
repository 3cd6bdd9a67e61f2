"""What each section of the page says, as plain values for the template."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from engine.reporting.costs import making_sentence
from engine.reporting.defended import Defended
from engine.reporting.inks import inks
from engine.reporting.learners import decisive, headline_set, reached, worst_cases
from engine.reporting.pictures import mosaic, pictures
from engine.reporting.results import Results
from engine.reporting.sheet import to_png
from engine.reporting.tables import UNTRAINED, Row, Summary, by_setting
from engine.reporting.wording import (
    NOTHING,
    budget_sentence,
    cell,
    columns_of,
    count_of,
    headline,
    learner,
    mean_and_sd,
    missing_note,
    name_of,
    number,
    plural,
)


def data_uri(png: bytes) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def cards(results: Results, summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return a card for every poison: the learner that it harms least, since an attacker cannot choose the learner.

    Of several downstream sets the pretraining set itself counts.
    """
    ink, downstream = inks(results), headline_set(results.study)
    here = [s for s in summaries if s.downstream == downstream]
    found_cards = []
    for case in worst_cases(results, summaries, downstream):
        facts, name = case.facts, case.facts.name
        least = case.best or next(s for s in here if s.poison == name)
        floor = next(s for s in here if (s.poison, s.victim) == (UNTRAINED, least.victim))
        is_reference = name == results.reference
        is_least = case.measured > 1 and not is_reference
        marks = {
            "value": case.accuracy,
            "clean": reached(case.clean) if case.clean else None,
            "floor": floor.spreads[decisive(least)],
        }
        found_cards.append(
            {
                "name": name,
                "attack": facts.attack,
                "ink": ink[name],
                "is_reference": is_reference,
                "marks": {key: (mark.mean, mean_and_sd(mark)) if mark else None for key, mark in marks.items()},
                "sentence": _unbroken(
                    headline(
                        least,
                        learner(least, results.study),
                        decisive(least),
                        is_reference=is_reference,
                        is_least=is_least,
                    )
                ),
                "budget": budget_sentence(facts),
                "making": making_sentence(results, facts) if facts.is_attack else "",
            }
        )
    return found_cards


def _unbroken(sentence: str) -> str:
    """Keep a number, its deviation and its unit on one line."""
    for text in (" ± ", " %"):
        sentence = sentence.replace(text, text.replace(" ", "\N{NO-BREAK SPACE}"))
    return sentence


def accuracy_groups(results: Results, summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Return the accuracy table in groups of one victim, defense and downstream set."""
    ink = inks(results)
    columns = columns_of(row for summary in summaries for row in summary.rows)
    return [
        {
            "setting": setting,
            "lines": [
                {
                    "name": name_of(s.poison),
                    "ink": ink.get(s.poison),
                    "cells": [(column, *cell(s, column, results.reference)) for column in columns],
                    "count": count_of(s),
                    "probe": ", ".join(s.protocols),
                    "missing": None if s.spreads["linear"] else missing_note(s),
                }
                for s in members
            ],
        }
        for setting, members in by_setting(summaries).items()
    ]


def seed_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return every single number, and the command that makes it."""
    lines, columns = [], columns_of(rows)
    for row in rows:
        values = [(column, getattr(row, column.measure)) for column in columns]
        written = [(column, NOTHING if value is None else number(value, column.digits), "") for column, value in values]
        lines.append({"row": row, "name": name_of(row.poison), "cells": written})
    return lines


def picture_rows(results: Results) -> list[dict[str, Any]]:
    """Return the pictures of every poison that changes images: of each class clean, poisoned, and the perturbation."""
    found = []
    for facts in results.poisons.values():
        shown = pictures(facts)
        if shown is None or not facts.is_attack:
            continue
        halves = zip(shown.classes, shown.clean, shown.poisoned, shown.noise, strict=True)
        tiles = [(name, *(data_uri(to_png(image)) for image in images)) for name, *images in halves]
        found.append({"name": facts.name, "note": shown.note, "budget": budget_sentence(facts), "tiles": tiles})
    return found


def defended_rows(shown: Defended | None) -> list[tuple[str, str]]:
    """Return the name of every defense that changes images, and a strip of them."""
    return [(name, data_uri(to_png(mosaic([images])))) for name, images in shown.rows.items()] if shown else []


def totals(results: Results) -> dict[str, str]:
    """Return how large the study is, and how much of it is there."""
    study = results.study
    wanted = len(study.poisons) * len(study.victims) * len(study.defenses) * len(study.seeds) * len(study.downstream)
    return {
        "found": f"{len(results.accuracies):,}",
        "wanted": plural(wanted, "cell"),
        "poisons": plural(len(study.poisons), "poison"),
        "victims": plural(len(study.victims), "victim"),
        "defenses": plural(len(study.defenses), "defense"),
        "downstream": plural(len(study.downstream), "downstream set"),
        "seeds": plural(len(study.seeds), "seed"),
    }


def protocols(results: Results) -> list[str]:
    """Return in how many ways the accuracies were measured: one, unless specs changed in between."""
    found = {accuracy.protocol for accuracy in (*results.accuracies.values(), *results.floors.values())}
    return [f"{train_set} · {select} (numerics {version})" for train_set, select, version in sorted(found)]
