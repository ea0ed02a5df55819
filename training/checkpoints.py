"""Checkpoints in a store, `<store>/<name>/<version>/`: where a new one goes, how to find one, and its data."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets import Dataset, DatasetError, load_suited
from training.recipe import RecipeError
from vampprior.card import CARD_FILE, CHECKPOINT_NAME, Card, CheckpointError
from vampprior.likelihoods import LIKELIHOODS

__all__ = ["dataset_of", "find_checkpoint", "list_checkpoints", "new_checkpoint"]


def new_checkpoint(store: Path, name: str, version: str) -> Path:
    """The folder for a new checkpoint; raises `RecipeError` if no checkpoint can have that version."""
    if not re.fullmatch(CHECKPOINT_NAME, version):
        raise RecipeError(f"the version {version!r} must be lower-case letters, digits, '.', '_' and '-'")
    return store / name / version


def list_checkpoints(store: Path) -> list[Path]:
    """Folders of all checkpoints in a store, by name, older versions first (10 is newer than 9)."""
    folders = [card.parent for card in store.glob(f"*/*/{CARD_FILE}")]
    return sorted(folders, key=lambda folder: (folder.parent.name, _order(folder.name), folder.name))


def find_checkpoint(reference: str, store: Path) -> Path:
    """The folder of a checkpoint given by its path, as `name@version`, or as `name`, which means its newest version.

    Raises `CheckpointError` if there is none.
    """
    if (Path(reference) / CARD_FILE).is_file():
        return Path(reference)
    name, _, version = reference.partition("@")
    folders = list_checkpoints(store)
    matching = [folder for folder in folders if folder.parent.name == name and version in ("", folder.name)]
    if not matching:
        known = ", ".join(f"{folder.parent.name}@{folder.name}" for folder in folders) or "none"
        raise CheckpointError(f"no checkpoint {reference!r} in {store}, nor a folder of that name; there are: {known}")
    return matching[-1]


def dataset_of(card: Card, directory: Path | None = None) -> Dataset:
    """The data set that a checkpoint was trained on.

    Raises `CheckpointError` if its card does not say which, and `DatasetError` if that cannot be had or has other test
    images now.
    """
    try:
        name, wanted = card.training["recipe"]["dataset"], card.dataset["sha256"]["test"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the card of {card.name}@{card.version} does not say what it was trained on") from error
    dataset = load_suited(str(name), LIKELIHOODS[card.model.likelihood], directory)
    if dataset.describe()["sha256"]["test"] != wanted:
        raise DatasetError(f"the test images of {name} are not those that {card.name}@{card.version} was trained with")
    return dataset


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
