"""Training runs: the folder of a run, and the checkpoint that it exports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from training.callbacks import Callback
from training.checkpoints import find_checkpoint, new_checkpoint
from training.data import Dataset
from training.evaluation import HISTOGRAM_FILE
from training.plots import draw_curves
from training.recipe import Recipe, RecipeError
from training.state import StateFolder
from training.trainer import Trainer
from vampprior.card import Card, read_card
from vampprior.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["CURVES_FILE", "Run"]

CURVES_FILE = "curves.png"
CALIBRATION_FILES = ("calibration.safetensors", "calibration-*.safetensors")
LONGER = "a larger training.max_epochs or training.patience"


@dataclass(frozen=True)
class Run:
    """The training of a recipe, with state in `<runs>/<name>/<version>/` and checkpoint in `<store>/<name>/<version>/`.

    overrides: settings that were changed on the command line, for the card

    Raises `RecipeError` if the version is not a valid one.
    """

    recipe: Recipe
    version: str
    runs: Path
    store: Path
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        new_checkpoint(self.store, self.recipe.name, self.version)

    @property
    def folder(self) -> Path:
        """Folder of state, metrics and curves."""
        return self.runs / self.recipe.name / self.version

    @property
    def checkpoint(self) -> Path:
        """Folder of weights, card and curves."""
        return new_checkpoint(self.store, self.recipe.name, self.version)

    def check_new_checkpoint(self) -> None:
        """Raise `RecipeError` if there is a checkpoint already."""
        if self.checkpoint.exists():
            extend = f", or extend its run with --resume and {LONGER}" if self.folder.exists() else ""
            raise RecipeError(
                f"there is a checkpoint in {self.checkpoint}; give the new one another --version, or --overwrite it"
                f"{extend}"
            )

    def check_own_checkpoint(self) -> None:
        """Raise `RecipeError` if there is a checkpoint that this run did not write, or one that cannot be read.

        A checkpoint is the run's own if the run had the same validation bound in the best epoch on the card.
        """
        if not (self.folder.exists() and self.checkpoint.exists()):
            return
        history = StateFolder(self.folder).history()
        training = read_card(self.checkpoint).training
        written = training.get("best_epoch"), training.get("best_valid_elbo")
        if written not in [(line["epoch"], line["valid_elbo"]) for line in history]:
            raise RecipeError(
                f"the checkpoint in {self.checkpoint} is not from the run in {self.folder}; --overwrite it, or move it"
            )

    def check_extended(self, trainer: Trainer) -> None:
        """Raise `RecipeError` if the run is finished and its checkpoint has been written."""
        if not (trainer.finished and self.checkpoint.exists()):
            return
        if read_card(self.checkpoint).training.get("epochs") == trainer.epoch:
            settings = self.recipe.training
            annealed = settings.annealing and trainer.epoch == settings.max_epochs
            raise RecipeError(
                f"the run in {self.folder} is finished after {trainer.epoch} epochs, and its checkpoint is written; "
                + ("with annealing it cannot be extended" if annealed else f"extend it with {LONGER}")
            )

    def check_new_run(self) -> None:
        """Raise `RecipeError` if there is a run already."""
        if self.folder.exists():
            raise RecipeError(
                f"there is a run in {self.folder}; continue it with --resume, remove it, or give another --version"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder within the block; raises `RecipeError` if one is training there."""
        lock = self.folder.with_name(f".{self.version}.lock")  # outside the folder, whose existence means a run
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout:
            raise RecipeError(f"another process is training in {self.folder}; wait for it, or stop it") from None

    def start(self, dataset: Dataset, device: torch.device) -> Trainer:
        """A trainer before its first epoch; raises `RecipeError` if the recipe does not fit the data set."""
        trainer = self._trainer(dataset, device)
        self.folder.mkdir(parents=True, exist_ok=True)
        return trainer

    def resume(self, dataset: Dataset, device: torch.device) -> Trainer:
        """A trainer that continues the run, which must be `locked`; raises `RecipeError` as `Trainer.resume` does."""
        trainer = self._trainer(dataset, device)
        trainer.resume()
        return trainer

    def load(self, dataset: Dataset, device: torch.device) -> Trainer:
        """A trainer at the last saved epoch, to export it while another process may be training in the folder."""
        trainer = self._trainer(dataset, device)
        trainer.load()
        return trainer

    def _trainer(self, dataset: Dataset, device: torch.device) -> Trainer:
        init_model = None
        if self.recipe.init_checkpoint:
            init_model, _ = load_checkpoint(find_checkpoint(self.recipe.init_checkpoint, self.store))
        return Trainer(self.recipe, dataset, self.folder, device, init_model)

    def fit(self, trainer: Trainer, callbacks: Sequence[Callback] = ()) -> None:
        """Train until the run is finished, and draw the curves however it ends."""
        try:
            while not trainer.finished:
                metrics = trainer.run_epoch()
                for callback in callbacks:
                    callback(trainer, metrics)
        finally:
            trainer.folder.wait()
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
        """Write the checkpoint: the weights of the best epoch, their card, and the curves.

        Raises `RecipeError` before the end of the first epoch.
        """
        if not trainer.epoch:
            raise RecipeError(
                f"the run in {self.folder} has not finished its first epoch, so there is nothing to write"
            )
        self._draw(trainer)
        card = Card(
            name=self.recipe.name,
            version=self.version,
            model=trainer.config,
            dataset=trainer.dataset_card,
            training=trainer.summary() | ({"overrides": list(self.overrides)} if self.overrides else {}),
            preparation=trainer.preparation,
            pseudo_input_view="decoded" if trainer.shows_noise() else "input",
        )
        card = save_checkpoint(self.checkpoint, trainer.best_model(), card)
        for old in (HISTOGRAM_FILE, *CALIBRATION_FILES):  # of the replaced weights
            for path in self.checkpoint.glob(old):
                path.unlink()
        shutil.copyfile(self.folder / CURVES_FILE, self.checkpoint / CURVES_FILE)
        return card
