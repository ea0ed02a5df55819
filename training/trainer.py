"""The training loop: warm-up, early stopping on the validation ELBO, best weights kept, resumable after every epoch."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hardware import device_name
from training.data.splits import Dataset
from training.machine import can_compile, settle_precision
from training.objective import lower_bound
from training.optim import NormalizedAdam, parameter_groups
from training.recipe import Recipe, RecipeError, first_difference
from training.sleep import Sleep
from training.state import RunState, StateFolder
from vampprior.models import LatentModel, Latents, build_model

__all__ = ["EpochMetrics", "Trainer"]

Awake = tuple[Tensor, Tensor]
"""Training images, and noise for their latents."""
Asleep = tuple[Tensor, Latents]
"""Images that a model generated, and their latents."""
Bounds = tuple[float, float, float]
"""The bound that is trained, reconstruction and KL: means over a split, in nats an image."""
AVERAGE_EVERY = 10
"""Steps between two updates of the weights' moving average, whose own memory is a hundred times longer."""
VALID_ROWS = 500
"""Images times draws that are validated at once."""


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch in numbers: nats per image, seconds.

    train_elbo, valid_elbo: the ELBO or, with several draws an image, their tighter bound
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
    """Fits one recipe's model to a data set, an epoch at a time.

    What is validated and kept is a moving average of the weights; without averaging, the weights themselves.

    Every epoch's order and noise come from a generator seeded with the recipe's seed and the epoch's number, so that a
    run resumed from `run_dir` gives the numbers of an uninterrupted one.

    start: the model of the recipe's `start`, if it has one; no other model may use its weights
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, run_dir: Path, device: torch.device, start: LatentModel | None = None
    ) -> None:
        self.recipe, self.folder, self.device = recipe, StateFolder(run_dir), device
        self.config = replace(recipe.model, image_shape=dataset.image_shape)
        self.dataset_card = dataset.describe()
        torch.manual_seed(recipe.training.seed)
        try:
            self.model: LatentModel = build_model(self.config).to(device)
        except ValueError as error:  # not every network takes every size of image
            raise RecipeError(f"[model]: {error}") from error
        wanted, kind = (1, "black and white") if self.model.likelihood.binary else (255, "gray")
        if dataset.levels != wanted:
            raise RecipeError(f"[model]: {self.config.likelihood} takes {kind} images, which {dataset.name} has not")
        self.dynamic = dataset.dynamic
        self.train_images, self.valid_images = (
            torch.from_numpy(dataset.gray(split)).to(device) for split in ("train", "valid")
        )
        if start is None:
            self._start_pseudo_inputs()
        else:
            self._start_from(start)
        self.sleep: Sleep | None = None
        if start is not None and "sleep" in recipe.training.phases:
            self.sleep = Sleep(start.to(device))
            self.sleep.freeze(self.model)
        groups = parameter_groups(self.model, recipe.training.weight_decay)
        adam = NormalizedAdam if recipe.training.normalize else partial(AdamW, fused=True)
        self.optimizer = adam(groups, lr=recipe.training.learning_rate)
        decay = recipe.training.averaging**AVERAGE_EVERY
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
        self.best_weights = self._weights(self.average.module)
        self.best_elbo, self.best_epoch, self.epoch, self.seconds = float("-inf"), 0, 0, 0.0
        self.precision = settle_precision(recipe.training.precision, device)
        self.compiled = recipe.training.compile and can_compile(device)
        self._loss: Callable[..., tuple[Tensor, Tensor]] = self._plain_loss
        if self.compiled:
            self._loss = torch.compile(self._plain_loss)

    @property
    def finished(self) -> bool:
        """Whether `max_epochs` are done or the validation ELBO has not risen for `patience` epochs past the warm-up."""
        return self.epochs_left == 0

    @property
    def epochs_left(self) -> int:
        """Epochs until training stops if the validation ELBO never rises again."""
        return self.recipe.training.epochs_left(self.epoch, self.best_epoch)

    def run_epoch(self) -> EpochMetrics:
        """Train for one epoch, validate, and save the state; returns the epoch's metrics."""
        started = time.perf_counter()
        settings = self.recipe.training
        epoch = self.epoch + 1
        kl_weight = settings.kl_weight(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate_of(epoch)
        generator = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + epoch)
        train = self.train_epoch(kl_weight, generator)
        valid = self._validate()
        if not torch.isfinite(torch.tensor([*train, *valid])).all():
            raise FloatingPointError(f"epoch {epoch} gave a bound that is not finite; try a smaller learning rate")
        self.epoch, self.seconds = epoch, self.seconds + time.perf_counter() - started
        metrics = EpochMetrics(epoch, kl_weight, *train, *valid, time.perf_counter() - started)
        if settings.keep == "last" or metrics.valid_elbo > self.best_elbo:
            self.best_elbo, self.best_epoch = metrics.valid_elbo, epoch
            self.best_weights = self._weights(self.average.module)
        self._save(metrics)
        return metrics

    def train_epoch(self, kl_weight: float, generator: torch.Generator) -> Bounds:
        """Take every step of an epoch, with order and noise from the generator; returns the means of the bound."""
        num_images = len(self.train_images)
        order = torch.randperm(num_images, generator=generator, device=self.device)
        weight = torch.tensor(kl_weight, device=self.device)
        totals = torch.zeros(3, device=self.device, dtype=torch.float64)
        if self.sleep is None:
            self.model.train()
        else:
            self.model.train_posterior()
        batches = torch.split(order, self.recipe.training.batch_size)
        for step, batch in enumerate(batches, 1):
            loss, sums = self._loss(*self._visit(batch, generator), weight)
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if step % AVERAGE_EVERY == 0 or step == len(batches):
                self.average.update_parameters(self.model)
            totals += sums
        elbo, reconstruction, kl = (totals / num_images).tolist()  # the epoch's only wait for the device
        return elbo, reconstruction, kl

    def _visit(self, chosen: Tensor, generator: torch.Generator) -> tuple[Awake | None, Asleep | None]:
        """Training images of these numbers, as many of the model's own, or both, as the recipe's phase has it."""
        awake, asleep = None, None
        if "wake" in self.recipe.training.phases:
            awake = self._view(self.train_images[chosen], generator), self._noise("train", len(chosen), generator)
        if self.sleep is not None:
            asleep = self.sleep.generate(len(chosen), generator)
        return awake, asleep

    def _plain_loss(self, awake: Awake | None, asleep: Asleep | None, kl_weight: Tensor) -> tuple[Tensor, Tensor]:
        objectives, prior = [], None if self.sleep is None else self.sleep.prior
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if awake is not None:
                objectives.append(lower_bound(self.model, *awake, kl_weight, prior))
            if asleep is not None and self.sleep is not None:
                objectives.append(self.sleep.upper_bound(self.model, *asleep))
        loss = -sum((objective.value.mean() for objective in objectives), torch.zeros_like(kl_weight))
        _, *parts = objectives[0]
        return loss, torch.stack([part.sum() for part in parts]).detach()

    @torch.no_grad()
    def _validate(self) -> Bounds:
        model = cast("LatentModel", self.average.module).eval()
        mixture = model.prior_mixture()
        # the same noise every time, so that epochs differ by their weights alone
        generator = torch.Generator(self.device).manual_seed(self.recipe.training.seed)
        totals = torch.zeros(3, device=self.device, dtype=torch.float64)
        for batch in torch.split(self.valid_images, max(1, VALID_ROWS // self.recipe.training.draws["valid"])):
            noise = self._noise("valid", len(batch), generator)
            _, *parts = lower_bound(model, model.likelihood.from_bytes(batch), noise, mixture=mixture)
            totals += torch.stack([part.sum() for part in parts])
        elbo, reconstruction, kl = (totals / len(self.valid_images)).tolist()
        return elbo, reconstruction, kl

    def _noise(self, split: str, images: int, generator: torch.Generator) -> Tensor:
        """Noise (images, draws, noise_dim) for the latents."""
        shape = (images, self.recipe.training.draws[split], self.model.noise_dim)
        return torch.randn(shape, generator=generator, device=self.device)

    def _start_from(self, start: LatentModel) -> None:
        if change := first_difference(start.config.to_dict(), self.config.to_dict()):
            raise RecipeError(f"[model]: {self.recipe.start} is another model: {change}")
        self.model.load_state_dict(start.state_dict())

    def _start_pseudo_inputs(self) -> None:
        prior, start = self.model.prior, self.recipe.pseudo_inputs
        if prior.pseudo_inputs is None:
            return
        noise = torch.empty_like(prior.pseudo_inputs).normal_()
        if prior.learns_pseudo_inputs and start.init == "noise":
            prior.init_pseudo_inputs(start.mean + start.std * noise)
            return
        if len(noise) > len(self.train_images):
            raise RecipeError(f"[model]: {len(self.train_images)} training images cannot start {len(noise)} components")
        chosen = torch.randperm(len(self.train_images))[: len(noise)]
        generator = torch.Generator(self.device).manual_seed(self.recipe.training.seed)
        images = self._view(self.train_images[chosen.to(self.device)], generator)
        prior.init_pseudo_inputs(images + start.std * noise if prior.learns_pseudo_inputs else images)

    def _view(self, gray: Tensor, generator: torch.Generator) -> Tensor:
        """Training images (N, C, H, W) as the model sees them at one visit."""
        if not self.dynamic:
            return self.model.likelihood.from_bytes(gray)
        uniform = torch.rand(gray.shape, generator=generator, device=self.device)
        return (255.0 * uniform < gray).to(uniform.dtype)

    @staticmethod
    def _weights(model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def _save(self, metrics: EpochMetrics) -> None:
        state = RunState(
            weights={
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "best": self.best_weights,
            },
            optimizer=self.optimizer.state_dict()["state"],
            progress={
                "epoch": self.epoch,
                "best_epoch": self.best_epoch,
                "best_elbo": self.best_elbo,
                "seconds": self.seconds,
                "recipe": self.recipe.to_dict(),
                "dataset": self.dataset_card,
            },
        )
        self.folder.save(state, asdict(metrics))

    def resume(self) -> None:
        """Continue the run in the folder, from the beginning if it was stopped in its first epoch.

        Raises `RecipeError` if there is no run, or if it is damaged, or has another recipe or data set.
        """
        if state := self.folder.load(self.device):
            self._continue(state)
        self.folder.keep_epochs(self.epoch)

    def _continue(self, state: RunState) -> None:
        progress = state.progress
        if change := self.recipe.change_since(progress["recipe"]):
            raise RecipeError(f"the run in {self.folder.path} was started with another recipe: {change}")
        if progress["dataset"] != self.dataset_card:
            raise RecipeError(f"the run in {self.folder.path} was started on other data")
        self.model.load_state_dict(state.weights["model"])
        self.average.load_state_dict(state.weights["average"])
        self.best_weights = state.weights["best"]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state.optimizer})
        self.epoch, self.seconds = progress["epoch"], progress["seconds"]
        self.best_epoch, self.best_elbo = progress["best_epoch"], progress["best_elbo"]

    def best_model(self) -> LatentModel:
        """The model with the weights of the best epoch, on the CPU."""
        model = build_model(self.config)
        model.load_state_dict(self.best_weights)
        return model.eval()

    def summary(self) -> dict[str, Any]:
        """What a card says of the training: the recipe with the precision that it came to, and how the run went."""
        settled = replace(self.recipe, training=replace(self.recipe.training, precision=self.precision))
        return {
            "recipe": settled.to_dict(),
            "seed": self.recipe.training.seed,
            "epochs": self.epoch,
            "finished": self.finished,
            "best_epoch": self.best_epoch,
            "best_valid_elbo": self.best_elbo,
            "wall_clock_seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
