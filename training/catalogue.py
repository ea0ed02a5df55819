"""Recipes by name: `<data set>-<model>-<prior>`, or `<data set>-<model>-<prior>-<components>` for another K.

What a data set's recipes share is in `recipes/<data set>.toml`, which also serves the sets whose names begin with its
own. So every model can be trained with every prior on every set.
"""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets import DATASETS
from training.recipe import Recipe, RecipeError, read_toml
from vampprior.models import MODELS
from vampprior.priors import PRIORS

__all__ = ["RECIPES", "SHAPE", "find_recipe"]

RECIPES = Path(__file__).parent / "recipes"
SHAPE = "<data set>-<model>-<prior>, such as static_mnist-hvae-vampprior"


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in the file of that path; raises `RecipeError` if there is none."""
    if name.endswith(".toml"):
        return Recipe.from_toml(Path(name))
    dataset, model, prior, components = _parts(name)
    values = read_toml(_shared_settings(dataset))
    table = values.setdefault("model", {}) | {"model": model, "prior": prior}
    if components:
        table["num_components"] = int(components)
    return Recipe.from_dict(values | {"name": name, "dataset": dataset, "model": table})


def _parts(name: str) -> tuple[str, str, str, str]:
    """Data set, model, prior and number of components, the last one empty if it is not in the name."""
    fields = "-".join(f"({'|'.join(known)})" for known in (DATASETS, MODELS, PRIORS))
    if match := re.fullmatch(rf"{fields}(?:-([1-9]\d{{0,5}}))?", name):
        return match[1], match[2], match[3], match[4] or ""
    raise RecipeError(
        f"no recipe {name!r}; give the path of a .toml file, or {SHAPE}, with data set one of {', '.join(DATASETS)}; "
        f"model one of {', '.join(MODELS)}; prior one of {', '.join(PRIORS)}; and -<components> at the end for another "
        "number of components"
    )


def _shared_settings(dataset: str) -> Path:
    """The file of settings for a data set: of those whose names it begins with, the longest."""
    files = [path for path in RECIPES.glob("*.toml") if dataset.startswith(path.stem)]
    if not files:
        raise RecipeError(f"there is no recipes/{dataset}.toml: copy another and say what suits the set")
    return max(files, key=lambda path: len(path.stem))
