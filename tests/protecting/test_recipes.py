"""Recipes: studies of one protection, with the user's changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.protecting.recipes import Changes, RecipeFault, check_counts, load_recipe, paced
from engine.specfiles import SpecFault, names
from engine.study import load_study

SHIPPED = ("protect", "protect_class", "protect_quick")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_recipes(project: Path, name: str) -> None:
    recipe = load_recipe(name, Changes())
    assert recipe.working_size == 32
    assert recipe.init == "uniform"
    assert set(recipe.victim_contents) == set(load_study(name).victims)
    assert recipe.attack in names("attacks")


def test_changes_replace_what_the_recipe_says(project: Path) -> None:
    recipe = load_recipe("protect", Changes("16/255", 48, 7))
    content = recipe.attack_content
    assert (content["epsilon"], content["seed"], content["surrogate"]["views"]["size"]) == ("16/255", 7, 48)
    assert recipe.working_size == 48
    assert all(victim["views"]["size"] == 48 for victim in recipe.victim_contents.values())
    unchanged = load_recipe("protect", Changes())
    assert (unchanged.attack_content["epsilon"], unchanged.attack_content["seed"]) == ("8/255", 0)


def test_studies_of_several_poisons_are_no_recipes(project: Path) -> None:
    with pytest.raises(RecipeFault, match=r"mini/table1\.yaml has 3 poisons that change images, noise, cp_s, cp_c"):
        load_recipe("mini/table1", Changes())
    with pytest.raises(SpecFault, match="there is no such file"):
        load_recipe("nothing", Changes())


def test_a_round_is_one_pass_over_the_owners_images() -> None:
    content = {"model_steps": 15, "noise_steps": 15, "rounds": 9, "surrogate": {"batch_size": 128}}
    assert paced(content, 2000) == content  # as mini_cp_sample has it
    assert paced(content, 500) == {**content, "model_steps": 3, "noise_steps": 3}
    assert paced(content, 10)["noise_steps"] == 1
    assert paced({"kind": "random_noise"}, 500) == {"kind": "random_noise"}


def test_too_few_images_for_a_batch_are_an_error_that_names_who_takes_it(project: Path) -> None:
    recipe = load_recipe("protect_quick", Changes())
    check_counts(recipe, crafted=32, trained=32)
    check_counts(recipe, crafted=32, trained=None)
    with pytest.raises(RecipeFault, match=r"protect_quick_simclr \(32 a batch, 31 images\)") as caught:
        check_counts(recipe, crafted=32, trained=31)
    assert "surrogate" not in str(caught.value)
    with pytest.raises(RecipeFault, match=r"the surrogate of protect_quick_cp \(32 a batch, 20 images\)"):
        check_counts(recipe, crafted=20, trained=None)
