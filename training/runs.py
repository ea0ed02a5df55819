"""A training run: its folder of state, and the checkpoint that comes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from training.checkpoints import find_checkpoint, new_checkpoint
from training.datasets import Dataset
from training.display import ShowEpoch
from training.evaluation import HISTOGRAM_FILE
from training.plots import draw_curves
from training.recipe import Recipe, RecipeError
from training.trainer import Trainer
from vampprior.card import Card
from vampprior.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["CURVES_FILE", "Run"]

CURVES_FILE = "curves.png"


@dataclass(frozen=True)
class Run:
    """What a recipe becomes: `<runs>/<name>/<version>/` while it trains, `<store>/<name>/<version>/` when it has.

    Raises `RecipeError` if no checkpoint can have that version.
    """

    recipe: Recipe
    version: str
    runs: Path
    store: Path

    def __post_init__(self) -> None:
        new_checkpoint(self.store, self.recipe.name, self.version)

    @property
    def folder(self) -> Path:
        """State, metrics and curves."""
        return self.runs / self.recipe.name / self.version

    @property
    def checkpoint(self) -> Path:
        """Weights, card and curves."""
        return new_checkpoint(self.store, self.recipe.name, self.version)

    def keep_checkpoint(self) -> None:
        """Raise `RecipeError` if the run would overwrite a checkpoint."""
        if self.checkpoint.exists():
            raise RecipeError(
                f"there is a checkpoint in {self.checkpoint}; give the new one another --version, or --overwrite it"
            )

    def keep_folder(self) -> None:
        """Raise `RecipeError` if there is a run already."""
        if self.folder.exists():
            raise RecipeError(
                f"there is a run in {self.folder}; continue it with --resume, remove it, or give another --version"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder meanwhile; raises `RecipeError` if one is at work there."""
        lock = self.folder.with_name(f".{self.version}.lock")  # beside it, since the folder is there if there is a run
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout:
            raise RecipeError(f"another process is training in {self.folder}; wait for it, or stop it") from None

    def start(self, dataset: Dataset, device: torch.device) -> Trainer:
        """A trainer at its first epoch; raises `RecipeError` if the recipe does not fit the data set."""
        trainer = self._trainer(dataset, device)
        self.folder.mkdir(parents=True, exist_ok=True)
        return trainer

    def resume(self, dataset: Dataset, device: torch.device) -> Trainer:
        """A trainer where the run stopped; raises `RecipeError` if there is no such run of this recipe and data."""
        trainer = self._trainer(dataset, device)
        trainer.resume()
        return trainer

    def _trainer(self, dataset: Dataset, device: torch.device) -> Trainer:
        start = None
        if self.recipe.start:
            start, _ = load_checkpoint(find_checkpoint(self.recipe.start, self.store))
        return Trainer(self.recipe, dataset, self.folder, device, start)

    def fit(self, trainer: Trainer, show: ShowEpoch) -> None:
        """Train to the end, and draw the curves however it ends."""
        try:
            while not trainer.finished:
                show(trainer, trainer.run_epoch())
        finally:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if history := trainer.folder.history():
            draw_curves(
                history,
                self.folder / CURVES_FILE,
                title=f"{self.recipe.name}, version {self.version}",
                warmup_epochs=self.recipe.training.warmup_epochs,
                bounds=self.recipe.training.bound_names,
            )

    def export(self, trainer: Trainer) -> Card:
        """Write the checkpoint: the best epoch's weights, their card, and the curves.

        Raises `RecipeError` before the first epoch is done.
        """
        if not trainer.epoch:
            raise RecipeError(f"the run in {self.folder} has not finished an epoch: there is nothing to write yet")
        self._draw(trainer)
        card = Card(
            name=self.recipe.name,
            version=self.version,
            model=trainer.config,
            dataset=trainer.dataset_card,
            training=trainer.summary(),
        )
        card = save_checkpoint(self.checkpoint, trainer.best_model(), card)
        (self.checkpoint / HISTOGRAM_FILE).unlink(missing_ok=True)  # of weights that are no more
        shutil.copyfile(self.folder / CURVES_FILE, self.checkpoint / CURVES_FILE)
        return card
