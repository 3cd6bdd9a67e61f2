"""What each section of the page says, as plain values for the template."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from engine.reporting.figures import inks
from engine.reporting.pictures import pictures, stack_png
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.tables import UNTRAINED, Row, Summary, by_setting
from engine.reporting.wording import (
    COLUMNS,
    NOTHING,
    budget_sentence,
    cell,
    count_of,
    headline,
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
    """Return a card for every poison: the victim that it harms least, since an attacker cannot choose the victim.

    Of several defenses the first one counts, of several downstream sets the pretraining set itself.
    """
    study, ink = results.study, inks(results.study, results.reference)
    downstream = study.dataset if study.dataset in study.downstream else study.downstream[0]
    chosen = {(s.poison, s.victim): s for s in summaries if s.downstream == downstream}
    chosen |= {
        (s.poison, s.victim): s for s in summaries if s.downstream == downstream and s.defense == study.defenses[0]
    }
    found_cards = []
    for name, facts in results.poisons.items():
        found = [chosen[name, victim] for victim in study.victims]
        reached = [s for s in found if s.spreads["linear"]]
        least = max(reached, key=lambda s: s.spreads["linear"].mean, default=found[0])  # type: ignore[union-attr]
        is_reference = name == results.reference
        is_least = len(reached) > 1 and not is_reference
        marks = {
            "value": least.spreads["linear"],
            "clean": chosen[results.reference, least.victim].spreads["linear"] if results.reference else None,
            "floor": chosen[UNTRAINED, least.victim].spreads["linear"],
        }
        found_cards.append(
            {
                "name": name,
                "attack": facts.attack,
                "ink": ink[name],
                "is_reference": is_reference,
                "marks": {key: (mark.mean, mean_and_sd(mark)) if mark else None for key, mark in marks.items()},
                "sentence": _unbroken(headline(least, is_reference=is_reference, is_least=is_least)),
                "budget": budget_sentence(facts),
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
    ink = inks(results.study, results.reference)
    return [
        {
            "setting": setting,
            "lines": [
                {
                    "name": name_of(s.poison),
                    "ink": ink.get(s.poison),
                    "cells": [(column, *cell(s, column, results.reference)) for column in COLUMNS],
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
    """Return every single number, for studies of several seeds."""
    lines = []
    for row in rows:
        values = [(column, getattr(row, column.measure)) for column in COLUMNS]
        written = [(column, NOTHING if value is None else number(value, column.digits), "") for column, value in values]
        lines.append({"row": row, "name": name_of(row.poison), "cells": written})
    return lines


def picture_rows(results: Results) -> list[dict[str, Any]]:
    """Return the pictures of every poison that changes images."""
    found = []
    for facts in results.poisons.values():
        shown = pictures(facts)
        if shown is None or facts.is_reference:
            continue
        tiles = [(name, data_uri(stack_png(shown, index))) for index, name in enumerate(shown.classes)]
        found.append({"name": facts.name, "note": shown.note, "budget": budget_sentence(facts), "tiles": tiles})
    return found


def costs(results: Results) -> list[dict[str, Any]]:
    """Return what every attack costs, and what it costs with the poisons that it starts from."""
    return [{"facts": facts, **_cost(results, facts)} for facts in results.poisons.values()]


def _cost(results: Results, facts: PoisonFacts) -> dict[str, str]:
    if facts.manifest is None:
        return dict.fromkeys(("views", "total", "passes", "changed"), NOTHING)
    images, manifests = facts.manifest["images"], [link.manifest for link in _chain(results, facts)]
    cost = {"views": f"{facts.manifest['image_views']:,}", "total": NOTHING, "passes": NOTHING, "changed": NOTHING}
    if all(manifests):
        total = sum(manifest["image_views"] for manifest in manifests if manifest)
        cost |= {"total": f"{total:,}", "passes": number(total / images, 0)}
    if not facts.is_reference:
        cost["changed"] = f"{facts.manifest['perturbed']:,} of {images:,}"
    return cost


def _chain(results: Results, facts: PoisonFacts) -> list[PoisonFacts]:
    """Return a poison and those that its noise starts from."""
    chain = [facts]
    while chain[-1].init in results.poisons:
        chain.append(results.poisons[chain[-1].init])
    return chain


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
