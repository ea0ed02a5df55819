"""Recipes: small TOML files that say what to train, on what, and how."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from vampprior.card import CHECKPOINT_NAME
from vampprior.config import ModelConfig
from vampprior.models import build_model

__all__ = ["Recipe", "RecipeError", "first_difference", "read_toml"]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Optimization:
    """The `[training]` table of a recipe; the defaults are the paper's (Sec. 5.1).

    learning_rate:      of Adam
    normalize:          whether Adam is given the gradient of each tensor divided by its norm, as in the paper
    annealing:          whether the learning rate falls linearly over max_epochs, to a step short of 0 in the last; the
                        paper's stays
    batch_size:         images a step
    warmup_epochs:      epochs over which the KL weight rises linearly from 0 to 1
    max_epochs:         epochs at most
    patience:           epochs without a better validation bound after which training stops; the warm-up does not count
    seed:               of the initial weights, the order of the images and all noise
    precision:          float32, or bfloat16 for the hidden layers' products (latents and densities stay float32);
                        `auto` takes bfloat16 where the device has matrix units for it, as recent GPUs and some CPUs do
    compile:            fuse the step with torch.compile, which needs a C++ compiler on a CPU
    weight_decay:       of the networks' weights, decoupled from the gradient: each step takes off learning_rate times
                        this part of them; the paper has none
    importance_samples: draws of the latents an image; one, as in the paper, makes the bound that is trained the ELBO,
                        more the tighter one of Burda et al. (2016), at nearly as many times the cost
    validation_samples: draws in the bound that is validated, if they are more than those: the more, the nearer it is to
                        the log-likelihood
    averaging:          decay, per step, of a moving average of the weights (taken every tenth step), which is then what
                        is validated and kept; the paper keeps the weights themselves, which is 0
    phase:              `wake` to fit the model to the training images, as in the paper; `sleep` to fit its posterior
                        alone, to as many images that the model of `start` generates (Hinton et al., 1995), of which
                        there is no end; `wake-sleep` to fit the posterior alone to both
    keep:               `best` for the weights of the epoch with the best validation bound, as in the paper, or `last`,
                        for which every epoch counts as the best so far
    """

    learning_rate: float = 5e-4
    normalize: bool = True
    annealing: bool = False
    batch_size: int = 100
    warmup_epochs: int = 100
    max_epochs: int = 2000
    patience: int = 50
    seed: int = 1
    precision: str = "float32"
    compile: bool = False
    weight_decay: float = 0.0
    importance_samples: int = 1
    validation_samples: int = 1
    averaging: float = 0.0
    phase: str = "wake"
    keep: str = "best"

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "patience", "importance_samples", "validation_samples"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name} must be at least 1, not {getattr(self, name)}")
        if self.warmup_epochs < 0:
            raise RecipeError(f"training.warmup_epochs must not be negative, but is {self.warmup_epochs}")
        if not 0 <= self.seed < 2**32:
            raise RecipeError(f"training.seed must be between 0 and {2**32 - 1}, not {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            raise RecipeError(f"training.learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise RecipeError(f"training.weight_decay must not be negative, but is {self.weight_decay}")
        if not 0 <= self.averaging < 1:
            raise RecipeError(f"training.averaging must be at least 0 and less than 1, not {self.averaging}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise RecipeError(f"training.precision must be auto, float32 or bfloat16, not {self.precision!r}")
        if self.phase not in ("wake", "sleep", "wake-sleep"):
            raise RecipeError(f"training.phase must be wake, sleep or wake-sleep, not {self.phase!r}")
        if "sleep" in self.phases and self.warmup_epochs:
            raise RecipeError(f"training.phase = {self.phase} weighs no KL: set warmup_epochs = 0")
        if self.phase == "sleep" and self.importance_samples > 1:
            raise RecipeError("training.phase = sleep trains no bound of training images: leave importance_samples out")
        if self.keep not in ("best", "last"):
            raise RecipeError(f"training.keep must be best or last, not {self.keep!r}")

    @property
    def phases(self) -> list[str]:
        """wake, sleep, or both."""
        return self.phase.split("-")

    @property
    def draws(self) -> dict[str, int]:
        """Draws of the latents an image in the bound of each split, train and valid."""
        return {"train": self.importance_samples, "valid": max(self.importance_samples, self.validation_samples)}

    def bound_name(self, split: str) -> str:
        """What people call the bound of a split."""
        if split == "train" and self.phase == "sleep":
            return "upper bound of its own images"
        draws = self.draws[split]
        return "ELBO" if draws == 1 else f"{draws}-sample bound"

    def kl_weight(self, epoch: int) -> float:
        """Weight of the KL in an epoch; the first is 1."""
        return min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0

    def learning_rate_of(self, epoch: int) -> float:
        """Learning rate in an epoch; the first is 1."""
        return self.learning_rate * (1.0 - (epoch - 1) / self.max_epochs) if self.annealing else self.learning_rate

    @property
    def bound_names(self) -> str:
        """What people call the bounds of both splits: one name if they have the same."""
        train, valid = (self.bound_name(split) for split in self.draws)
        return train if train == valid else f"{train}, validation {valid}"

    def epochs_left(self, epoch: int, best_epoch: int) -> int:
        """Epochs until training stops if the validation ELBO never again rises over that of the best epoch."""
        waited = epoch - max(best_epoch, self.warmup_epochs)
        return max(0, min(self.max_epochs - epoch, self.patience - waited))


@dataclass(frozen=True)
class PseudoInputs:
    """The `[pseudo_inputs]` table: where the pseudo-inputs start.

    init:      `noise` for N(mean, std) per pixel, or `data` for random training images plus N(0, std)
    mean, std: of the noise

    A prior that keeps training images takes them as they are.
    """

    init: str = "noise"
    mean: float = 0.5
    std: float = 0.02

    def __post_init__(self) -> None:
        if self.init not in ("noise", "data"):
            raise RecipeError(f"pseudo_inputs.init must be noise or data, not {self.init!r}")
        if not (math.isfinite(self.mean) and 0 <= self.std < math.inf):
            raise RecipeError(f"pseudo_inputs: no normal distribution has mean {self.mean} and std {self.std}")


@dataclass(frozen=True)
class Recipe:
    """One experiment: the checkpoint's name, a data set, a network and how to fit it.

    dataset: the name of a data set (`python -m training data` lists them), or the path of the user's own images
    start:   `name@version` of a checkpoint of the same model in the store, with whose weights training starts; with
             weights drawn at random if it is empty
    """

    name: str
    dataset: str
    start: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    pseudo_inputs: PseudoInputs = field(default_factory=PseudoInputs)
    training: Optimization = field(default_factory=Optimization)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from plain values; a missing, unknown or ill-typed key raises `RecipeError`."""
        _check_keys("", values, cls)
        for key in ("name", "dataset"):
            if not isinstance(values.get(key), str) or not values[key]:
                raise RecipeError(f"a recipe needs a {key}")
        if not re.fullmatch(CHECKPOINT_NAME, values["name"]):
            raise RecipeError(f"the name {values['name']!r} must be lower-case letters, digits, '.', '_' and '-'")
        start = values.get("start", "")
        if not isinstance(start, str) or not re.fullmatch(f"({CHECKPOINT_NAME}@{CHECKPOINT_NAME})?", start):
            raise RecipeError(f"start must be the name@version of a checkpoint, not {start!r}")
        model_table = _table(values, "model")
        if "image_shape" in model_table:
            raise RecipeError("[model]: image_shape comes from the data set; leave it out")
        try:
            model = ModelConfig.from_dict(model_table)
            with torch.device("meta"):
                build_model(model)  # knows whether there is such a model
        except ValueError as error:
            raise RecipeError(f"[model]: {error}") from error
        training = _read(Optimization, "training", values)
        if "sleep" in training.phases and not start:
            raise RecipeError(f"training.phase = {training.phase} needs a start: the model that generates the images")
        return cls(
            name=values["name"],
            dataset=values["dataset"],
            start=start,
            model=model,
            pseudo_inputs=_read(PseudoInputs, "pseudo_inputs", values),
            training=training,
        )

    @classmethod
    def from_toml(cls, path: Path) -> Recipe:
        """Read a recipe file; raises `RecipeError` if it is not one."""
        values = read_toml(path)
        try:
            return cls.from_dict(values)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error

    def change_since(self, values: Mapping[str, Any]) -> str:
        """The first setting that differs from those of an older recipe's `to_dict`, in words; empty if none does.

        Settings that were not there yet had their defaults, and a precision of `auto` is any that it may have come to.
        Raises `RecipeError` if the values are no recipe.
        """
        older = Recipe.from_dict(values)
        if self.training.precision == "auto":
            older = replace(older, training=replace(older.training, precision="auto"))
        return first_difference(older.to_dict(), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes back."""
        values = asdict(self)
        del values["model"]["image_shape"]
        return values


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says; raises `RecipeError` if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> str:
    """The first setting in which two recipes, as plain values, differ: in words, and empty if there is none."""
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if change := first_difference(old, new, f"{prefix}{key}."):
                return change
        elif old != new:
            return f"{prefix}{key} was {old!r} and now is {new!r}"
    return ""


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise RecipeError(f"{name} must be a table, written [{name}]")
    return table


def _read(kind: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    table = _table(values, name)
    _check_keys(f"{name}.", table, kind)
    converted = {}
    for known in fields(kind):
        if known.name not in table:
            continue
        value, wanted = table[known.name], type(known.default)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise RecipeError(f"{name}.{known.name} must be of type {wanted.__name__}, not {value!r}")
        converted[known.name] = value
    return kind(**converted)


def _check_keys(prefix: str, values: Mapping[str, Any], kind: type[Any]) -> None:
    known = [known.name for known in fields(kind)]
    if unknown := [key for key in values if key not in known]:
        raise RecipeError(f"unknown key {prefix}{unknown[0]}; known are {', '.join(known)}")
