from __future__ import annotations

from dataclasses import replace

from training.catalogue import find_recipe
from training.report.paper import TABLES
from training.sweep.lists import LISTS, expand


def test_table_1_is_every_network_of_the_papers_tables_on_every_split() -> None:
    cells = {row.cell for table in TABLES for row in table.rows if row.cell is not None}
    left = {(cell, name) for cell in cells for name in cell.data.names}
    for recipe in map(find_recipe, LISTS["table1"]):
        shapes = {cell.data.image_shape for cell, name in left if name == recipe.dataset}
        (shape,) = shapes
        config = replace(recipe.model, image_shape=shape)
        (found,) = [(cell, name) for cell, name in left if name == recipe.dataset and cell.fits(config)]
        left.remove(found)
    assert not left


def test_table_1_begins_with_what_matters_most() -> None:
    recipes = LISTS["table1"]
    assert recipes[:5] == (
        "static_mnist-hvae-vampprior",
        "static_mnist-hvae-standard",
        "static_mnist-hvae-mog",
        "static_mnist-hvae-vampprior_data",
        "static_mnist-vae-vampprior",
    )
    assert list(dict.fromkeys(recipe.partition("-")[0] for recipe in recipes)) == [
        "static_mnist",
        "dynamic_mnist",
        "caltech101_silhouettes",
        "frey_faces_1",
        "frey_faces_2",
        "frey_faces_3",
        "omniglot",
        "histopathology",
    ]


def test_the_components_are_those_of_the_figures() -> None:
    chosen = [find_recipe(name) for name in LISTS["components"]]
    sizes = [1, 10, 50, 100, 200, 500, 1000]
    for prior in ("mog", "vampprior"):
        assert [recipe.model.num_components for recipe in chosen if recipe.model.prior == prior] == sizes
    assert [recipe.name for recipe in chosen if recipe.model.prior == "standard"] == ["static_mnist-hvae-standard"]
    assert "static_mnist-hvae-vampprior" in LISTS["components"]


def test_lists_and_recipes_mix_and_each_recipe_comes_once() -> None:
    recipes = expand(["mine.toml", "components", "table1", "static_mnist-hvae-mog", "mine.toml"])
    assert recipes[:2] == ["mine.toml", "static_mnist-hvae-standard"]
    assert len(recipes) == len(set(recipes)) == 1 + len({*LISTS["components"], *LISTS["table1"]})
