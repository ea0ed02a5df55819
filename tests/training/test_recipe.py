from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.catalogue import RECIPES, find_recipe
from training.recipe import Recipe, RecipeError, first_difference


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.from_dict({"name": "r", "dataset": "digits", **changes})


def test_the_defaults_are_the_papers() -> None:
    recipe = recipe_of()
    assert recipe.training.learning_rate == 5e-4
    assert (recipe.training.batch_size, recipe.training.warmup_epochs, recipe.training.patience) == (100, 100, 50)
    assert (recipe.model.z1_dim, recipe.model.hidden_dim, recipe.model.num_components) == (40, 300, 500)


def test_the_template_for_own_images_spells_out_the_defaults() -> None:
    template = Recipe.from_toml(RECIPES / "own-images.toml")
    assert template == Recipe(template.name, template.dataset)


@pytest.mark.parametrize("path", sorted((RECIPES / "refined").glob("*.toml")), ids=lambda path: path.stem)
def test_a_refining_recipe_starts_from_the_same_model(path: Path) -> None:
    recipe = Recipe.from_toml(path)
    assert recipe.start.startswith(f"{recipe.name}@")
    assert recipe.model == find_recipe(recipe.name).model


def test_plain_values_make_the_same_recipe() -> None:
    recipe = recipe_of(start="d@1", model={"z1_dim": 7}, training={"seed": 3}, pseudo_inputs={"mean": 0.05})
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_whole_number_is_taken_for_a_fraction() -> None:
    assert recipe_of(pseudo_inputs={"mean": 0}).pseudo_inputs.mean == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 100}, "unknown key batchsize"),
        ({"training": {"batchsize": 100}}, "unknown key training.batchsize"),
        ({"pseudo_inputs": {"sigma": 1.0}}, "unknown key pseudo_inputs.sigma"),
        ({"model": {"hidden": 300}}, "unknown model setting 'hidden'"),
        ({"model": {"image_shape": [1, 8, 8]}}, "image_shape comes from the data set"),
        ({"model": {"prior": "flow"}}, "unknown prior 'flow'"),
        ({"model": {"z1_dim": "40"}}, "z1_dim must be a positive whole number"),
        ({"model": 3}, "model must be a table"),
        ({"training": {"batch_size": "100"}}, "training.batch_size must be of type int"),
        ({"training": {"batch_size": 100.0}}, "training.batch_size must be of type int"),
        ({"training": {"compile": 1}}, "training.compile must be of type bool"),
        ({"training": {"max_epochs": True}}, "training.max_epochs must be of type int"),
        ({"training": {"batch_size": 0}}, "training.batch_size must be at least 1"),
        ({"training": {"importance_samples": 0}}, "training.importance_samples must be at least 1"),
        ({"training": {"validation_samples": 0}}, "training.validation_samples must be at least 1"),
        ({"training": {"warmup_epochs": -1}}, "training.warmup_epochs must not be negative"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate must be positive"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate must be positive"),
        ({"training": {"weight_decay": -0.1}}, "training.weight_decay must not be negative"),
        ({"training": {"seed": 2**32}}, "training.seed must be between"),
        ({"training": {"precision": "float16"}}, "training.precision must be auto, float32 or bfloat16"),
        ({"training": {"phase": "rem"}}, "training.phase must be wake, sleep or wake-sleep, not 'rem'"),
        ({"start": "a@1", "training": {"phase": "wake-sleep"}}, "wake-sleep weighs no KL: set warmup_epochs = 0"),
        (
            {"start": "a@1", "training": {"phase": "sleep", "warmup_epochs": 0, "importance_samples": 5}},
            "leave importance_samples out",
        ),
        ({"training": {"phase": "sleep", "warmup_epochs": 0}}, "training.phase = sleep needs a start: the model"),
        ({"training": {"keep": "first"}}, "training.keep must be best or last"),
        ({"pseudo_inputs": {"std": -0.1}}, "no normal distribution has mean 0.5 and std -0.1"),
        ({"name": "Bad Name"}, "the name 'Bad Name' must be lower-case"),
        ({"name": "../up"}, "the name '../up' must be"),
        ({"name": ""}, "a recipe needs a name"),
        ({"dataset": 5}, "a recipe needs a dataset"),
        ({"start": "digits"}, "start must be the name@version of a checkpoint, not 'digits'"),
        ({"start": "../digits@1"}, "start must be"),
        ({"start": 1}, "start must be"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
        recipe_of(**changes)


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(RecipeError, match=r"^\S*broken\.toml is not TOML"):
        find_recipe(str(path))
    with pytest.raises(RecipeError, match=r"missing\.toml cannot be read: No such file"):
        find_recipe(str(tmp_path / "missing.toml"))


def test_what_changed_since_an_older_recipe_leaves_out_settings_that_are_newer() -> None:
    older = recipe_of().to_dict()
    del older["start"], older["training"]["annealing"]
    assert recipe_of().change_since(older) == ""
    assert recipe_of(training={"annealing": True}).change_since(older) == (
        "training.annealing was False and now is True"
    )


def test_the_first_difference_of_two_recipes_is_named() -> None:
    before = recipe_of(training={"seed": 1}).to_dict()
    assert first_difference(before, recipe_of(training={"seed": 1}).to_dict()) == ""
    assert first_difference(before, recipe_of(training={"seed": 2}).to_dict()) == "training.seed was 1 and now is 2"
