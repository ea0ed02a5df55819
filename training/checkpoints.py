"""Checkpoints in a store, `<store>/<name>/<version>/`, and their data sets."""

from __future__ import annotations

import re
from pathlib import Path

from training.data import Dataset, DatasetError, Wanted, load_dataset
from training.recipe import RecipeError
from vampprior.card import CARD_FILE, CHECKPOINT_NAME, Card, CheckpointError
from vampprior.likelihoods import LIKELIHOODS

__all__ = ["dataset_of", "find_checkpoint", "list_checkpoints", "new_checkpoint"]


def new_checkpoint(store: Path, name: str, version: str) -> Path:
    """The folder of a new checkpoint; raises `RecipeError` if the version is not a valid one."""
    if not re.fullmatch(CHECKPOINT_NAME, version):
        raise RecipeError(f"the version {version!r} must be lower-case letters, digits, '.', '_' and '-'")
    return store / name / version


def list_checkpoints(store: Path) -> list[Path]:
    """Folders of all checkpoints in a store, by name and version, older versions first (10 is newer than 9)."""
    folders = [card.parent for card in store.glob(f"*/*/{CARD_FILE}")]
    return sorted(folders, key=lambda folder: (folder.parent.name, _order(folder.name), folder.name))


def find_checkpoint(reference: str, store: Path) -> Path:
    """The folder of a checkpoint given by its path, by `name@version`, or by `name` for its newest version.

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


def dataset_of(card: Card, directory: Path | None = None, split: str = "test") -> Dataset:
    """The data set of a checkpoint's training, with own images prepared as its card says.

    Raises `CheckpointError` if its card does not name one, and `DatasetError` if it cannot be loaded or the images of
    the split have changed.
    """
    try:
        name, digest = card.training["recipe"]["dataset"], card.dataset["sha256"][split]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the card of {card.name}@{card.version} does not name its data set") from error
    wanted = Wanted.of(card.preparation) if card.preparation else None
    dataset = load_dataset(str(name), directory, LIKELIHOODS[card.model.likelihood], wanted)
    if dataset.describe()["sha256"][split] != digest:
        raise DatasetError(f"the {split} images of {name} are not those on the card of {card.name}@{card.version}")
    return dataset


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
