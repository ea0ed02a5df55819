"""The training loop: KL warm-up, early stopping on the validation bound, best weights kept, resumable every epoch."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from msgspec.structs import replace
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hardware import device_name
from training.data import Dataset
from training.losses import Phase, Sleep, Wake
from training.machine import can_compile, resolve_precision
from training.optim import build_optimizer
from training.pseudo_inputs import init_pseudo_inputs, look_like_noise
from training.recipe import Recipe, RecipeError, first_difference
from training.state import RunState, StateFolder
from vampprior.latent_model import LatentModel
from vampprior.models import build_model

__all__ = ["EpochMetrics", "Trainer"]

Bounds = tuple[float, float, float]
"""Bound, reconstruction and KL: means over a split, in nats per image."""
EMA_EVERY = 10
"""Update the EMA of the weights every 10 steps with decay**10."""
COMPARED_IMAGES = 1000
"""Training images with which pseudo-inputs are compared at the end."""
VALID_ROWS = 500
"""Images times latent samples that are validated at once."""


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of an epoch in nats per image, and its duration in seconds.

    train_elbo, valid_elbo: the ELBO or, with several latent samples per image, their tighter bound
    """

    epoch: int
    kl_weight: float
    train_elbo: float
    train_reconstruction: float
    train_kl: float
    valid_elbo: float
    valid_reconstruction: float
    valid_kl: float
    seconds: float


class Trainer:
    """Fits the model of a recipe to a data set, one epoch at a time.

    The weights that are validated and kept are their moving average or, with `ema_decay` 0, the weights themselves.

    The order of the images and the noise of an epoch come from a generator seeded with the recipe's seed and the number
    of the epoch, so a resumed run gives the numbers of an uninterrupted one.

    run_dir:    folder of the state
    init_model: the model of the recipe's `init_checkpoint`, if it has one; the trainer modifies it

    Raises `RecipeError` if the recipe does not fit the data set or the initial model, or if that model is missing.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        run_dir: Path,
        device: torch.device,
        init_model: LatentModel | None = None,
    ) -> None:
        settings = recipe.training
        if recipe.init_checkpoint and init_model is None:
            raise RecipeError(f"the recipe starts from {recipe.init_checkpoint}, but the trainer got no init_model")
        self.recipe, self.folder, self.device = recipe, StateFolder(run_dir), device
        self.config = dataclasses.replace(recipe.model, image_shape=dataset.image_shape)
        self.dataset_card, self.preparation = dataset.describe(), dataset.preparation
        torch.manual_seed(settings.seed)
        self.model = self._build_model(dataset)
        self.valid_images = torch.from_numpy(dataset.gray("valid")).to(device)
        self.wake = Wake(self.model, dataset, settings.draws["train"], device, recipe.images.augment)
        if init_model is None:
            init_pseudo_inputs(self.model, recipe.pseudo_inputs, self.wake, settings.seed)
        else:
            self._init_weights(init_model)
        self.learns_posterior_alone = "sleep" in settings.phases
        self.phases: list[Phase] = [self.wake] if "wake" in settings.phases else []
        if init_model is not None and self.learns_posterior_alone:
            sleep = Sleep(init_model.to(device))
            sleep.freeze(self.model)
            self.wake.mixture = sleep.prior
            self.phases.append(sleep)
        self.optimizer = build_optimizer(self.model, settings, device)
        decay = settings.ema_decay**EMA_EVERY
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
        self.average.eval()
        self.best_weights = _copy(self.validated_model)
        self.best_elbo, self.best_epoch, self.epoch, self.seconds = float("-inf"), 0, 0, 0.0
        self.precision = resolve_precision(settings.precision, device)
        self.compiled = settings.compile and can_compile(device)
        self._full_loss: Callable[..., tuple[Tensor, Tensor]] = self._loss
        if self.compiled:  # on a GPU, steps of one shape are captured as CUDA graphs
            self._full_loss = torch.compile(self._loss, mode="reduce-overhead" if device.type == "cuda" else None)

    @property
    def finished(self) -> bool:
        """True after `max_epochs`, or `patience` epochs without a better validation bound after the warm-up."""
        return self.epochs_left == 0

    @property
    def epochs_left(self) -> int:
        """Epochs until training stops if the validation bound does not improve."""
        return self.recipe.training.epochs_left(self.epoch, self.best_epoch)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last epoch."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def validated_model(self) -> LatentModel:
        """The model with the weights that are validated; it is always in evaluation mode."""
        return cast("LatentModel", self.average.module)

    def run_epoch(self) -> EpochMetrics:
        """Train for one epoch, validate, and start to save the state; raises `FloatingPointError` on divergence."""
        started = time.perf_counter()
        settings, epoch = self.recipe.training, self.epoch + 1
        kl_weight = settings.kl_weight(epoch)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(settings.learning_rate_in(epoch))
        generator = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + epoch)
        train = self.train_epoch(kl_weight, generator)
        valid = self._validate()
        if not torch.isfinite(torch.tensor([*train, *valid])).all():
            raise FloatingPointError(f"the bound of epoch {epoch} is not finite; try a smaller learning rate")
        seconds = time.perf_counter() - started
        self.epoch, self.seconds = epoch, self.seconds + seconds
        metrics = EpochMetrics(epoch, kl_weight, *train, *valid, seconds)
        if settings.keep == "last" or metrics.valid_elbo > self.best_elbo:
            self.best_elbo, self.best_epoch = metrics.valid_elbo, epoch
            self.best_weights = _copy(self.validated_model)
        self.folder.save(self._state(), asdict(metrics))
        return metrics

    def train_epoch(self, kl_weight: float, generator: torch.Generator) -> Bounds:
        """Take all steps of an epoch, with order and noise from the generator; returns the mean bound."""
        num_images, batch_size = len(self.wake.images), self.recipe.training.batch_size
        order = torch.randperm(num_images, generator=generator, device=self.device)
        weight = torch.tensor(kl_weight, device=self.device)
        totals = torch.zeros(3, device=self.device, dtype=torch.float64)
        if self.learns_posterior_alone:
            self.model.train_posterior()
        else:
            self.model.train()
        steps = torch.split(order, batch_size)
        for step, indices in enumerate(steps, 1):
            totals += self._step(indices, generator, weight)
            if step % EMA_EVERY == 0 or step == len(steps):
                self.average.update_parameters(self.model)
        elbo, reconstruction, kl = (totals / num_images).tolist()  # the only wait for the device
        return elbo, reconstruction, kl

    def _step(self, indices: Tensor, generator: torch.Generator, weight: Tensor) -> Tensor:
        """Change the weights by one step; returns the sums of bound, reconstruction and KL."""
        batches = [phase.batch(indices, generator) for phase in self.phases]
        # a smaller batch at the end would be compiled, or captured, for one step per epoch
        full = len(indices) == self.recipe.training.batch_size
        loss, sums = (self._full_loss if full else self._loss)(batches, weight)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums

    def seconds_per_epoch(self, limit: float) -> float:
        """Estimate the time of an epoch from steps taken for about `limit` seconds; they change the weights.

        The first step, which takes longer, is left out if there is time for another one. A validation image is counted
        as a third of a training image, since it has no backward pass.
        """
        self.model.train()
        batch_size, generator = self.recipe.training.batch_size, torch.Generator(self.device).manual_seed(0)
        indices = torch.arange(min(batch_size, len(self.wake.images)), device=self.device)
        weight, begin = torch.tensor(1.0, device=self.device), time.perf_counter()
        durations: list[float] = []
        while not durations or time.perf_counter() - begin + durations[-1] < limit:
            started = time.perf_counter()
            self._step(indices, generator, weight).tolist()  # waits for the device
            durations.append(time.perf_counter() - started)
        num_images = len(self.wake.images) + len(self.valid_images) / 3
        return statistics.median(durations[1:] or durations) * num_images / len(indices)

    def _loss(self, batches: Sequence[tuple[Any, ...]], kl_weight: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, summed over the phases, and the sums of bound, reconstruction and KL of the first phase."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            bounds = [p.bound(self.model, batch, kl_weight) for p, batch in zip(self.phases, batches, strict=True)]
        loss = -sum((bound.value.mean() for bound in bounds), torch.zeros_like(kl_weight))
        _, *parts = bounds[0]
        return loss, torch.stack([part.sum() for part in parts]).detach()

    @torch.no_grad()
    def _validate(self) -> Bounds:
        model, draws = self.validated_model, self.recipe.training.draws["valid"]
        mixture = model.prior_mixture()
        # the same noise in every epoch, so that epochs differ only by their weights
        generator = torch.Generator(self.device).manual_seed(self.recipe.training.seed)
        totals = torch.zeros(3, device=self.device, dtype=torch.float64)
        for batch in torch.split(self.valid_images, max(1, VALID_ROWS // draws)):
            noise = torch.randn(len(batch), draws, model.noise_dim, generator=generator, device=self.device)
            _, *parts = model(model.likelihood.from_bytes(batch), noise=noise, mixture=mixture)
            totals += torch.stack([part.sum() for part in parts])
        elbo, reconstruction, kl = (totals / len(self.valid_images)).tolist()
        return elbo, reconstruction, kl

    def _build_model(self, dataset: Dataset) -> LatentModel:
        try:
            model = build_model(self.config).to(self.device)
        except ValueError as error:  # some networks do not take every size of image
            raise RecipeError(f"[model]: {error}") from error
        levels, kind = (1, "black and white") if model.likelihood.binary else (255, "gray")
        if dataset.levels != levels:
            raise RecipeError(
                f"[model]: {self.config.likelihood} takes {kind} images, but those of {dataset.name} are {dataset.kind}"
            )
        return model

    def _init_weights(self, init_model: LatentModel) -> None:
        if change := first_difference(init_model.config.to_dict(), self.config.to_dict()):
            raise RecipeError(f"[model]: {self.recipe.init_checkpoint} is another model: {change}")
        self.model.load_state_dict(init_model.state_dict())

    def _state(self) -> RunState:
        progress = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_elbo": self.best_elbo,
            "seconds": self.seconds,
            "recipe": self.recipe.to_dict(),
            "dataset": self.dataset_card,
        }
        weights = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best_weights}
        return RunState(weights, self.optimizer.state_dict()["state"], progress)

    def resume(self) -> None:
        """Continue the run in the folder, from the beginning if it was stopped in its first epoch.

        Drops metrics of later epochs from the folder, so no other process may train there. Raises as `load`.
        """
        self.load()
        self.folder.keep_epochs(self.epoch)

    def load(self) -> None:
        """Read the state of the run in the folder without writing; no effect if the run is still in its first epoch.

        The recipe may extend the run, see `Recipe.change_since_run`. Raises `RecipeError` if there is no run, if it is
        damaged, or if it differs otherwise in its recipe or its data.
        """
        if state := self.folder.load(self.device):
            self._continue(state)

    def _continue(self, state: RunState) -> None:
        progress = state.progress
        try:
            change = self.recipe.change_since_run(progress["recipe"])
        except RecipeError as error:
            raise RecipeError(
                f"the run in {self.folder.path} is of another version of this program: {error}"
            ) from error
        if change:
            raise RecipeError(f"the run in {self.folder.path} was started with another recipe: {change}")
        if progress["dataset"] != self.dataset_card:
            raise RecipeError(f"the run in {self.folder.path} was started on other data")
        self.model.load_state_dict(state.weights["model"])
        self.average.load_state_dict(state.weights["average"])
        self.best_weights = dict(state.weights["best"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state.optimizer})
        self.epoch, self.seconds = progress["epoch"], progress["seconds"]
        self.best_epoch, self.best_elbo = progress["best_epoch"], progress["best_elbo"]

    def best_model(self) -> LatentModel:
        """The model with the weights of the best epoch, on the CPU."""
        model = build_model(self.config)
        model.load_state_dict(self.best_weights)
        return model.eval()

    def shows_noise(self) -> bool:
        """True if the pseudo-inputs of the best epoch look like noise."""
        order = torch.randperm(len(self.wake.images), generator=torch.Generator().manual_seed(0))[:COMPARED_IMAGES]
        images = self.wake.view(order.to(self.device), torch.Generator(self.device).manual_seed(0))
        return look_like_noise(self.best_model(), images.cpu())

    def summary(self) -> dict[str, Any]:
        """The training on a card: the recipe with the precision that was used, and the course of the run."""
        resolved = replace(self.recipe, training=replace(self.recipe.training, precision=self.precision))
        return {
            "recipe": resolved.to_dict(),
            "seed": self.recipe.training.seed,
            "epochs": self.epoch,
            "finished": self.finished,
            "best_epoch": self.best_epoch,
            "best_valid_elbo": self.best_elbo,
            "wall_clock_seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }


def _copy(model: LatentModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
