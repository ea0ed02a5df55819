"""Recipes by name: every model with every prior on every data set."""

from __future__ import annotations

from itertools import product

import pytest

from training.catalogue import RECIPES, find_recipe
from training.datasets import DATASETS
from training.recipe import RecipeError
from vampprior import MODELS, PRIORS

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
    with pytest.raises(RecipeError, match=r"no recipe .*static_mnist, .*pixel_hvae; .*weighted_vampprior"):
        find_recipe(name)
