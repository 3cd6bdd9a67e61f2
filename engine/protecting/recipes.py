"""Recipes: a ready-made study, whose attack, learners and defenses meet an owner's images in place of its data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError
from engine.spec import AttackSpec
from engine.specfiles import SpecFault, file_of, load, model_of, parse, read_document
from engine.study import StudySpec, load_study
from engine.victimspec import VictimSpec


class RecipeFault(EngineError):
    """A recipe does not fit its use, or the images it is to protect."""


@dataclass(frozen=True)
class Changes:
    """What a user asks for in place of what the recipe says; None leaves it.

    ``epsilon`` as a spec may spell it: 8/255.
    """

    epsilon: str | None = None
    working_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """A study of one protection: its names, and the specs' contents with the user's changes.

    ``attack_content`` and ``victim_contents`` are what their files would say.
    """

    study: StudySpec
    protection: str
    """The poison that protects."""
    attack_content: dict[str, Any]
    victim_contents: Mapping[str, dict[str, Any]]
    working_size: int

    @property
    def attack(self) -> str:
        """Return the name of the attack."""
        return self.study.poisons[self.protection].attack

    @property
    def init(self) -> str:
        """Return where the noise starts."""
        return self.study.poisons[self.protection].init


def load_recipe(name: str, changes: Changes) -> Recipe:
    """Return a study as a recipe.

    Raises:
        SpecFault: there is no such study, it is wrong, or a change is.
        RecipeFault: it has not exactly one poison beside the clean one, or its learners see several sizes.
    """
    study = load_study(name)
    attacks: dict[str, AttackSpec] = {poison: load("attacks", entry.attack) for poison, entry in study.poisons.items()}
    protections = [poison for poison, spec in attacks.items() if spec.epsilon > 0]
    where = f"specs/studies/{name}.yaml"
    if len(protections) != 1 or study.poisons[protections[0]].init in study.poisons:
        raise RecipeFault(
            f"{where} has {len(protections)} poisons that change images, {', '.join(protections) or 'none'}; a recipe "
            "has one, which starts from zero or uniform noise, beside a clean one"
        )
    attack = study.poisons[protections[0]].attack
    learners: dict[str, VictimSpec] = {victim: load("victims", victim) for victim in study.victims}
    surrogate = attacks[protections[0]].learner
    sizes = {spec.views.size for spec in (*learners.values(), *([surrogate] if surrogate else []))}
    if len(sizes) != 1:
        raise RecipeFault(f"{where} has learners that see images of {sorted(sizes)} pixels; a recipe has one size")
    size = changes.working_size or sizes.pop()
    asked = {"seed": changes.seed} | ({} if changes.epsilon is None else {"epsilon": changes.epsilon})
    victims = {victim: _content("victims", victim, size, {}) for victim in study.victims}
    return Recipe(study, protections[0], _content("attacks", attack, size, asked), victims, size)


def _content(group: str, name: str, size: int, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what a spec's file says, with changes; checked here, before anything is read or written."""
    document = read_document(file_of(group, name))
    document.content = _resized({**document.content, **asked}, size)
    if parse(document, model_of(group)) is None:
        raise SpecFault(document.faults)
    content: dict[str, Any] = document.content
    return content


def _resized(content: dict[str, Any], size: int) -> dict[str, Any]:
    """Return a spec's content with every distribution of views at a size."""
    changed = {key: _resized(value, size) if isinstance(value, dict) else value for key, value in content.items()}
    return {key: {**value, "size": size} if key in ("views", "views_b") else value for key, value in changed.items()}


def paced(content: dict[str, Any], images: int) -> dict[str, Any]:
    """Return an attack's content in which a round is one pass over the images, for model and noise alike.

    Where a recipe counts no such steps, it stays as it is. A recipe is written for some number of images; an owner has
    another, and with the same number of steps most of a large folder would hardly be visited.
    """
    if not {"model_steps", "noise_steps", "surrogate"} <= content.keys():
        return content
    steps = max(1, images // int(content["surrogate"]["batch_size"]))
    return {**content, "model_steps": steps, "noise_steps": steps}


def check_counts(recipe: Recipe, *, crafted: int, trained: int | None) -> None:
    """Check that there are enough images for one batch of every learner; None where none trains.

    Raises:
        RecipeFault: there are not.
    """
    surrogate = recipe.attack_content.get("surrogate", {})
    needed = {f"the surrogate of {recipe.attack}": (int(surrogate.get("batch_size", 0)), crafted)}
    if trained is not None:
        needed |= {
            victim: (int(content.get("batch_size", 0)), trained) for victim, content in recipe.victim_contents.items()
        }
    short = [f"{name} ({size} a batch, {there} images)" for name, (size, there) in needed.items() if size > there]
    if short:
        raise RecipeFault(
            f"recipe {recipe.study.name} takes larger batches than there are images: {', '.join(short)}; name a recipe "
            "with smaller batches, or protect more images at once"
        )
