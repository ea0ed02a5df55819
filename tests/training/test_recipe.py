from __future__ import annotations

import re
import tomllib
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from training.data import DATASETS
from training.recipe import RECIPES, Optimization, Recipe, RecipeError, find_recipe, first_difference, with_new_names
from vampprior import MODELS, PRIORS, ModelConfig


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.from_dict({"name": "r", "dataset": "digits", **changes})


def test_the_defaults_are_the_papers() -> None:
    recipe = recipe_of()
    assert recipe.training.learning_rate == 5e-4
    assert (recipe.training.batch_size, recipe.training.warmup_epochs, recipe.training.patience) == (100, 100, 50)
    assert (recipe.model.z1_dim, recipe.model.hidden_dim, recipe.model.num_components) == (40, 300, 500)


def test_the_template_for_own_images_spells_out_the_defaults() -> None:
    template = find_recipe(str(RECIPES / "own-images.toml"))
    assert template == Recipe(template.name, template.dataset)


@pytest.mark.parametrize("path", sorted((RECIPES / "refined").glob("*.toml")), ids=lambda path: path.stem)
def test_a_refining_recipe_starts_from_the_same_model(path: Path) -> None:
    recipe = find_recipe(str(path))
    assert recipe.init_checkpoint.startswith(f"{recipe.name}@")
    assert recipe.model == find_recipe(recipe.name).model


def test_plain_values_make_the_same_recipe() -> None:
    recipe = recipe_of(init_checkpoint="d@1", model={"z1_dim": 7}, training={"seed": 3}, pseudo_inputs={"mean": 0.05})
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_whole_number_is_taken_for_a_fraction() -> None:
    assert recipe_of(pseudo_inputs={"mean": 0}).pseudo_inputs.mean == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batchsize": 100}, "unknown key batchsize; known are name, dataset, "),
        ({"training": {"batchsize": 100}}, "unknown key training.batchsize; known are learning_rate, "),
        ({"pseudo_inputs": {"sigma": 1.0}}, "unknown key pseudo_inputs.sigma; known are start, mean, std"),
        ({"model": {"hidden": 300}}, "unknown key model.hidden; known are model, prior, "),
        ({"start": "a@1"}, "start is now named init_checkpoint"),
        ({"training": {"averaging": 0.9}}, "training.averaging is now named training.ema_decay"),
        ({"model": {"image_shape": [1, 8, 8]}}, "model.image_shape comes from the data set"),
        ({"model": {"prior": "flow"}}, "unknown prior 'flow'"),
        ({"model": {"z1_dim": "40"}}, "model.z1_dim: expected `int`, got `str`"),
        ({"model": {"z1_dim": 0}}, "z1_dim must be a positive whole number"),
        ({"model": 3}, "model: expected a table, got `int`"),
        ({"training": {"batch_size": "100"}}, "training.batch_size: expected `int`, got `str`"),
        ({"training": {"batch_size": 100.0}}, "training.batch_size: expected `int`, got `float`"),
        ({"training": {"compile": 1}}, "training.compile: expected `bool`"),
        ({"training": {"max_epochs": True}}, "training.max_epochs: expected `int`, got `bool`"),
        ({"training": {"batch_size": 0}}, "training.batch_size: expected `int` >= 1"),
        ({"training": {"importance_samples": 0}}, "training.importance_samples: expected `int` >= 1"),
        ({"training": {"validation_samples": 0}}, "training.validation_samples: expected `int` >= 1"),
        ({"training": {"warmup_epochs": -1}}, "training.warmup_epochs: expected `int` >= 0"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate: expected a finite number"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: expected `float` > 0"),
        ({"training": {"weight_decay": -0.1}}, "training.weight_decay: expected `float` >= 0"),
        ({"training": {"ema_decay": 1.0}}, "training.ema_decay: expected `float` < 1"),
        ({"training": {"seed": 2**32}}, "training.seed: expected `int` <= 4294967295"),
        ({"training": {"precision": "float16"}}, "training.precision: invalid enum value 'float16'; known are auto, "),
        ({"training": {"phase": "rem"}}, "training.phase: invalid enum value 'rem'; known are wake, sleep, wake-sleep"),
        ({"init_checkpoint": "a@1", "training": {"phase": "wake-sleep"}}, "has no KL weight: set warmup_epochs = 0"),
        (
            {"init_checkpoint": "a@1", "training": {"phase": "sleep", "warmup_epochs": 0, "importance_samples": 5}},
            "leave importance_samples out",
        ),
        ({"training": {"phase": "sleep", "warmup_epochs": 0}}, "training.phase = 'sleep' needs init_checkpoint"),
        ({"training": {"keep": "first"}}, "training.keep: invalid enum value 'first'; known are best, last"),
        ({"pseudo_inputs": {"start": "zeros"}}, "pseudo_inputs.start: invalid enum value 'zeros'; known are noise, im"),
        ({"pseudo_inputs": {"init": "data"}}, "pseudo_inputs.init is now named pseudo_inputs.start"),
        ({"dataset": "./own", "images": {"size": 7}}, "images.size: expected `int` >= 8"),
        ({"dataset": "./own", "images": {"size": [8, 129]}}, "images.size[1]: expected `int` <= 128"),
        ({"dataset": "./own", "images": {"size": [8, 8, 3]}}, "images.size: expected `array` of length <= 2"),
        (
            {"dataset": "./own", "images": {"mode": "grey"}},
            "images.mode: invalid enum value 'grey'; known are rgb, gray",
        ),
        ({"dataset": "./own", "images": {"fit": "zoom"}}, "images.fit: invalid enum value 'zoom'; known are crop, pad"),
        ({"images": {"augment": ["spin"]}}, "images.augment[0]: invalid enum value 'spin'; known are shift, flip"),
        (
            {"images": {"size": 16}},
            "[images]: size, mode and fit are for your own images; those of digits are prepared",
        ),
        (
            {"dataset": "./own", "images": {"mode": "gray"}},
            "[images]: the likelihood bernoulli takes mode = 'binary', not 'gray'",
        ),
        (
            {"dataset": "./own", "images": {"mode": "binary"}, "model": {"likelihood": "logistic"}},
            "[images]: the likelihood logistic takes mode = 'gray' or 'rgb', not 'binary'",
        ),
        ({"pseudo_inputs": {"std": -0.1}}, "pseudo_inputs.std: expected `float` >= 0"),
        ({"pseudo_inputs": {"mean": float("nan")}}, "pseudo_inputs.mean: expected a finite number"),
        ({"name": "Bad Name"}, "name: must be lower-case letters"),
        ({"name": "../up"}, "name: must be"),
        ({"name": ""}, "name: must be"),
        ({"name": "a\n"}, "name: must be"),
        ({"dataset": 5}, "dataset: expected `str`"),
        ({"dataset": ""}, "dataset: expected `str` of length >= 1"),
        ({"init_checkpoint": "digits"}, "init_checkpoint: must be the name@version of a checkpoint"),
        ({"init_checkpoint": "../digits@1"}, "init_checkpoint: must be"),
        ({"init_checkpoint": 1}, "init_checkpoint: expected `str`"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as info:
        recipe_of(**changes)
    assert len(str(info.value).splitlines()) == 1


def test_a_recipe_needs_its_keys() -> None:
    with pytest.raises(RecipeError, match="missing key `dataset`"):
        Recipe.from_dict({"name": "r"})


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(RecipeError, match=r"^\S*broken\.toml is not TOML"):
        find_recipe(str(path))
    with pytest.raises(RecipeError, match=r"missing\.toml cannot be read: No such file"):
        find_recipe(str(tmp_path / "missing.toml"))


def test_what_changed_since_an_older_recipe_leaves_out_settings_that_are_newer() -> None:
    older = recipe_of().to_dict()
    del older["init_checkpoint"], older["training"]["annealing"]
    assert recipe_of().change_since(older) == ""
    assert recipe_of(training={"annealing": True}).change_since(older) == (
        "training.annealing was False and is now True"
    )


def test_the_first_difference_of_two_recipes_is_named() -> None:
    before = recipe_of(training={"seed": 1}).to_dict()
    assert first_difference(before, recipe_of(training={"seed": 1}).to_dict()) == ""
    assert first_difference(before, recipe_of(training={"seed": 2}).to_dict()) == "training.seed was 1 and is now 2"


@pytest.mark.parametrize(
    ("training", "extended"),
    [
        ({"max_epochs": 30}, True),
        ({"patience": 9}, True),
        ({"max_epochs": 30, "patience": 9}, True),
        ({"max_epochs": 10}, False),
        ({"patience": 1}, False),
        ({"max_epochs": 30, "seed": 2}, False),
        ({"max_epochs": 30, "annealing": True}, False),
        ({"patience": 9, "annealing": True}, True),
        ({"max_epochs": 30, "patience": 9, "annealing": True}, False),
        ({"patience": 1, "annealing": True}, False),
    ],
)
def test_more_epochs_and_more_patience_extend_a_run(training: dict[str, Any], extended: bool) -> None:
    settings = {"max_epochs": 20, "patience": 5, "annealing": training.get("annealing", False)}
    older = recipe_of(training=settings).to_dict()
    present = recipe_of(training=settings | training)
    assert present.change_since(older) != ""
    assert (present.change_since_run(older) == "") == extended


def test_recipes_of_older_cards_are_read_by_their_present_names() -> None:
    older = {"start": "", "training": {"averaging": 0.9, "normalize": False, "seed": 4}, "model": {"z1_dim": 3}}
    older["pseudo_inputs"] = {"init": "data", "std": 0.1}
    assert with_new_names(older) == {
        "init_checkpoint": "",
        "pseudo_inputs": {"start": "images", "std": 0.1},
        "training": {"ema_decay": 0.9, "normalize_gradients": False, "seed": 4},
        "model": {"z1_dim": 3},
    }
    training = {"ema_decay": 0.9, "normalize_gradients": False, "seed": 4}
    present = recipe_of(training=training, model={"z1_dim": 3}, pseudo_inputs={"start": "images", "std": 0.1})
    assert present.change_since({"name": "r", "dataset": "digits", **older}) == ""


def test_the_size_of_own_images_is_one_number_or_two() -> None:
    for size, sides in ((16, (16, 16)), ([16, 24], (16, 24)), (None, None)):
        recipe = recipe_of(dataset="./own", images={"size": size, "fit": "pad"})
        assert (recipe.images.wanted.size, recipe.images.wanted.fit) == (sides, "pad")
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_overrides_replace_settings() -> None:
    overrides = ["training.max_epochs=10", "model.num_components=100", "name=short", 'pseudo_inputs.start="images"']
    recipe = find_recipe("static_mnist-hvae-vampprior", [*overrides, "training.learning_rate=1e-3"])
    assert (recipe.name, recipe.training.max_epochs, recipe.model.num_components) == ("short", 10, 100)
    assert (recipe.pseudo_inputs.start, recipe.training.learning_rate) == ("images", 1e-3)
    assert recipe.training.ema_decay == find_recipe("static_mnist-hvae-vampprior").training.ema_decay


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=10", "unknown key training.epochs"),
        ("training.max_epochs=many", "training.max_epochs: expected `int`, got `str`"),
        ("training.max_epochs=0", "training.max_epochs: expected `int` >= 1"),
        ("training.max_epochs", "'training.max_epochs' is not an override such as"),
        ("=3", "'=3' is not an override"),
        ("name.first=a", "name is not a table"),
        ("extra.key=a", "unknown key extra"),
    ],
)
def test_overrides_are_checked_as_recipes_are(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        find_recipe("digits-hvae-vampprior", [override])


PAPER_SETS = (
    ["static_mnist", "dynamic_mnist", "omniglot", "caltech101_silhouettes"]
    + [f"frey_faces_{split}" for split in (1, 2, 3)]
    + ["histopathology"]
)


@pytest.mark.parametrize("dataset", [*DATASETS, *PAPER_SETS])
def test_every_model_has_a_recipe_with_every_prior_on_every_set(dataset: str) -> None:
    for model, prior in product(MODELS, PRIORS):
        recipe = find_recipe(f"{dataset}-{model}-{prior}")
        assert (recipe.name, recipe.dataset) == (f"{dataset}-{model}-{prior}", dataset)
        assert (recipe.model.model, recipe.model.prior) == (model, prior)


@pytest.mark.parametrize(
    ("name", "likelihood", "components", "mean", "std"),
    [
        ("static_mnist-hvae-vampprior", "bernoulli", 500, 0.05, 0.01),
        ("dynamic_mnist-vae-vampprior", "bernoulli", 500, 0.05, 0.01),
        ("omniglot-conv_hvae-vampprior", "bernoulli", 1000, 0.05, 0.01),
        ("caltech101_silhouettes-pixel_hvae-vampprior", "bernoulli", 500, 0.5, 0.02),
        ("frey_faces_2-hvae-vampprior", "logistic", 500, 0.5, 0.02),
        ("histopathology-hvae-vampprior", "logistic", 500, 0.4, 0.05),
    ],
)
def test_recipes_have_the_papers_settings(name: str, likelihood: str, components: int, mean: float, std: float) -> None:
    recipe = find_recipe(name)
    assert (recipe.model.likelihood, recipe.model.num_components) == (likelihood, components)
    assert (recipe.pseudo_inputs.mean, recipe.pseudo_inputs.std) == (mean, std)
    assert (recipe.model.z1_dim, recipe.model.z2_dim, recipe.model.hidden_dim) == (40, 40, 300)
    assert recipe.training.learning_rate in (5e-4, 1e-4)  # the two of Sec. 5.1
    assert recipe.training.batch_size == 100
    assert (recipe.training.warmup_epochs, recipe.training.max_epochs, recipe.training.patience) == (100, 2000, 50)


def test_a_longer_name_of_a_data_set_does_not_take_the_settings_of_a_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "digits_big", DATASETS["digits"])
    recipe = find_recipe("digits_big-hvae-vampprior")
    assert recipe.model == ModelConfig()  # digits.toml has smaller networks
    assert recipe.training == Optimization()


@pytest.mark.parametrize(
    ("name", "family"), [("omniglot_raw28", "omniglot"), *((f"frey_faces_{i}", "frey_faces") for i in (1, 2, 3))]
)
def test_data_sets_of_a_family_share_their_settings(name: str, family: str) -> None:
    settings = tomllib.loads((RECIPES / f"{family}.toml").read_text())
    recipe = find_recipe(f"{name}-vae-standard")
    assert recipe.model.num_components == settings["model"]["num_components"]
    assert recipe.training.ema_decay == settings["training"]["ema_decay"]


def test_a_number_at_the_end_is_the_number_of_components() -> None:
    single = find_recipe("static_mnist-hvae-mog-1")
    assert (single.name, single.model.num_components) == ("static_mnist-hvae-mog-1", 1)


@pytest.mark.parametrize(
    "name",
    [
        "minst-hvae-vampprior",
        "static_mnist",
        "static_mnist-hvae",
        "static_mnist-hvae-vampprior-0",
        "static_mnist-hvae-vampprior-",
        f"../recipes/{next(RECIPES.glob('*.toml')).stem}",
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(name: str) -> None:
    with pytest.raises(RecipeError, match=r"no recipe .*static_mnist, .*resnet_hvae; .*weighted_vampprior"):
        find_recipe(name)
