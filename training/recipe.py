"""Recipes: small TOML files that say what to train, on what data, and how.

A recipe also has a name, `<data set>-<model>-<prior>` or `<data set>-<model>-<prior>-<components>`. The settings that
the recipes of a data set share are in `recipes/<data set>.toml`. Without that file they have their defaults, with the
likelihood that suits the pixels. So every model can be trained with every prior on every data set.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import torch
from msgspec import Meta, Struct
from msgspec.structs import replace

from training.data import DATASETS, Wanted
from training.data.frey_faces import FREY_FACES
from vampprior.card import CHECKPOINT_NAME
from vampprior.config import ModelConfig
from vampprior.likelihoods import LIKELIHOODS
from vampprior.models import MODELS, build_model
from vampprior.priors import PRIORS

__all__ = ["NAME_PATTERN", "RECIPES", "Images", "Optimization", "PseudoInputs", "Recipe", "RecipeError", "find_recipe"]

RECIPES = Path(__file__).parent / "recipes"
NAME_PATTERN = "<data set>-<model>-<prior>, such as static_mnist-hvae-vampprior"
RENAMED = {
    "start": "init_checkpoint",
    "training.averaging": "training.ema_decay",
    "training.normalize": "training.normalize_gradients",
    "pseudo_inputs.init": "pseudo_inputs.start",
}
"""Keys by their names in version 0.1.0, which the cards of that time have."""
RENAMED_VALUES = {("pseudo_inputs.start", "data"): "images"}
"""Values by their names in version 0.1.0."""

FAMILIES = {"omniglot_raw28": "omniglot"} | {source.name: "frey_faces" for source in FREY_FACES}
"""File of the settings, for data sets that share it with others."""
PATTERNS = {
    "name": rf"\A{CHECKPOINT_NAME}\Z",
    "init_checkpoint": rf"\A({CHECKPOINT_NAME}@{CHECKPOINT_NAME})?\Z",
}
MEANINGS = {
    "name": "must be lower-case letters, digits, '.', '_' and '-'",
    "init_checkpoint": "must be the name@version of a checkpoint",
}
LARGEST = sys.float_info.max
AtLeastOne = Annotated[int, Meta(ge=1)]
AtLeastZero = Annotated[float, Meta(ge=0, le=LARGEST)]
Side = Annotated[int, Meta(ge=8, le=128)]
Sides = Annotated[tuple[Side, ...], Meta(min_length=2, max_length=2)]  # msgspec 0.22 crashes on tuple[Side, Side]


class RecipeError(ValueError):
    """A recipe, an option or a run that cannot be used; the message says what to change."""


class Optimization(Struct, frozen=True, forbid_unknown_fields=True):
    """The `[training]` table of a recipe; the defaults are those of the paper (Sec. 5.1).

    learning_rate:       learning rate of Adam
    normalize_gradients: divide the gradient of each parameter tensor by its norm before Adam, as in the paper
    annealing:           decrease the learning rate linearly over max_epochs, to one step above 0 in the last epoch; the
                         paper keeps it constant
    batch_size:          images per step
    warmup_epochs:       epochs over which the KL weight rises linearly from 0 to 1
    max_epochs:          largest number of epochs
    patience:            epochs without a better validation bound after which training stops, not counting the warm-up
    seed:                seed of the initial weights, the order of the images and all noise
    precision:           float32, or bfloat16 for the products of hidden layers (latents and densities stay float32);
                         `auto` is bfloat16 on devices with matrix units for it, such as recent GPUs and some CPUs
    compile:             compile the step with torch.compile, which needs a C++ compiler on a CPU
    weight_decay:        decoupled weight decay of the networks' weights: each step subtracts this fraction of them
                         times learning_rate; the paper uses none
    importance_samples:  latent samples per image. One, as in the paper, trains the ELBO; k samples train the tighter
                         bound of Burda et al. (2016) and take nearly k times as long
    validation_samples:  latent samples per image in the validation bound, if more than importance_samples; the bound
                         of many samples is close to the log-likelihood
    ema_decay:           decay per step of an exponential moving average of the weights, which is updated every tenth
                         step and at the end of each epoch, with decay**10, and then validated and kept; 0, as in the
                         paper, keeps the weights themselves
    phase:               `wake` fits the model to the training images, as in the paper. `sleep` fits only its posterior
                         and pseudo-inputs to images that the model of `init_checkpoint` generates (Hinton et al.,
                         1995), as many as there are training images in each epoch and always new ones; the
                         components of the prior hardly change. `wake-sleep` does the same with images of both kinds
    keep:                `best` keeps the weights of the epoch with the best validation bound, as in the paper; `last`
                         counts every epoch as the best so far
    """

    learning_rate: Annotated[float, Meta(gt=0, le=LARGEST)] = 5e-4
    normalize_gradients: bool = True
    annealing: bool = False
    batch_size: AtLeastOne = 100
    warmup_epochs: Annotated[int, Meta(ge=0)] = 100
    max_epochs: AtLeastOne = 2000
    patience: AtLeastOne = 50
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 1
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    compile: bool = False
    weight_decay: AtLeastZero = 0.0
    importance_samples: AtLeastOne = 1
    validation_samples: AtLeastOne = 1
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    phase: Literal["wake", "sleep", "wake-sleep"] = "wake"
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if "sleep" in self.phases and self.warmup_epochs:
            raise ValueError(f"phase = {self.phase!r} has no KL weight: set warmup_epochs = 0")
        if self.phase == "sleep" and self.importance_samples > 1:
            raise ValueError("phase = 'sleep' trains no bound of training images: leave importance_samples out")

    @property
    def phases(self) -> list[str]:
        """The phases of every step: wake, sleep or both."""
        return self.phase.split("-")

    @property
    def draws(self) -> dict[str, int]:
        """Latent samples per image in the bound of each split, train and valid."""
        return {"train": self.importance_samples, "valid": max(self.importance_samples, self.validation_samples)}

    def bound_name(self, split: str) -> str:
        """The name of the bound of a split: ELBO, k-sample bound or, in the sleep phase, upper bound."""
        if split == "train" and self.phase == "sleep":
            return "upper bound of generated images"
        draws = self.draws[split]
        return "ELBO" if draws == 1 else f"{draws}-sample bound"

    @property
    def bound_names(self) -> str:
        """The names of the bounds of both splits, or the one name that they share."""
        train, valid = (self.bound_name(split) for split in self.draws)
        return train if train == valid else f"{train}, validation {valid}"

    def kl_weight(self, epoch: int) -> float:
        """Weight of the KL term in an epoch; the first is 1."""
        return min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0

    def learning_rate_in(self, epoch: int) -> float:
        """Learning rate in an epoch; the first is 1."""
        return self.learning_rate * (1.0 - (epoch - 1) / self.max_epochs) if self.annealing else self.learning_rate

    def epochs_left(self, epoch: int, best_epoch: int) -> int:
        """Epochs until training stops if the validation bound does not improve on that of the best epoch."""
        waited = epoch - max(best_epoch, self.warmup_epochs)
        return max(0, min(self.max_epochs - epoch, self.patience - waited))


class PseudoInputs(Struct, frozen=True, forbid_unknown_fields=True):
    """The `[pseudo_inputs]` table of a recipe: initial values of the pseudo-inputs.

    start:     `noise` for N(mean, std) per pixel; `images` for random training images plus N(0, std); `kmeans` for
               training images far apart, chosen by k-means++ on their pixels, plus N(0, std)
    mean, std: mean and standard deviation of the noise

    A prior on training images (`vampprior_data`) takes the images without noise.
    """

    start: Literal["noise", "images", "kmeans"] = "noise"
    mean: Annotated[float, Meta(ge=-LARGEST, le=LARGEST)] = 0.5
    std: AtLeastZero = 0.02


class Images(Struct, frozen=True, forbid_unknown_fields=True):
    """The `[images]` table of a recipe: how the user's own images are prepared, and how training changes them.

    size:    pixels a side, or [height, width]; None if all images have one size, which is kept
    mode:    `rgb`, `gray` or `binary`, which is thresholded at one half; None for the kind of the arrays, or for gray
             if the images are files. Thresholded either way for a likelihood of binary pixels
    fit:     `crop` to the middle, `pad` with black, or `stretch`, for images of another aspect ratio
    augment: random changes of each training image in each epoch: `shift` by up to a sixteenth of each side, `flip` left
             and right
    """

    size: Side | Sides | None = None
    mode: Literal["rgb", "gray", "binary"] | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    augment: tuple[Literal["shift", "flip"], ...] = ()

    @property
    def wanted(self) -> Wanted:
        """The preparation, as far as it is given."""
        if self.size is None:
            return Wanted(None, self.mode, self.fit)
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return Wanted((height, width), self.mode, self.fit)


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """One experiment.

    name:            name of the checkpoint
    dataset:         name of a data set (`python -m training data` lists them) or path of the user's own images
    init_checkpoint: `name@version` of a checkpoint of the same model in the store, whose weights training starts from;
                     empty for random weights
    """

    name: Annotated[str, Meta(pattern=PATTERNS["name"])]
    dataset: Annotated[str, Meta(min_length=1)]
    init_checkpoint: Annotated[str, Meta(pattern=PATTERNS["init_checkpoint"])] = ""
    model: ModelConfig = ModelConfig()
    images: Images = Images()
    pseudo_inputs: PseudoInputs = PseudoInputs()
    training: Optimization = Optimization()

    def __post_init__(self) -> None:
        if "sleep" in self.training.phases and not self.init_checkpoint:
            raise ValueError(
                f"training.phase = {self.training.phase!r} needs init_checkpoint, the model that generates the images"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Convert plain values; raises `RecipeError`, which names the key, if one is missing, unknown or invalid."""
        model = values.get("model", {})
        if isinstance(model, Mapping):
            if "image_shape" in model:
                raise RecipeError("model.image_shape comes from the data set; leave it out")
            known = [name for name in ModelConfig.__dataclass_fields__ if name != "image_shape"]
            if unknown := [key for key in model if key not in known]:
                raise RecipeError(f"unknown key model.{unknown[0]}; known are {', '.join(known)}")
        try:
            recipe = msgspec.convert(values, cls)
            recipe = replace(recipe, model=dataclasses.replace(recipe.model))  # msgspec leaves out fields with defaults
        except msgspec.ValidationError as error:
            raise RecipeError(_explain(str(error))) from error
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise `RecipeError` if the model cannot be built, or if the images do not fit the data set or the model."""
        wanted, model = self.images.wanted, self.model
        if self.dataset in DATASETS and wanted != Wanted():
            raise RecipeError(
                f"[images]: size, mode and fit are for your own images; those of {self.dataset} are prepared already"
            )
        shape = model.image_shape
        if wanted.size or wanted.mode:
            shape = wanted.given(shape[1:], "rgb" if shape[0] == 3 else "gray").image_shape
        try:
            with torch.device("meta"):
                build_model(dataclasses.replace(model, image_shape=shape))
        except ValueError as error:
            raise RecipeError(f"[model]: {error}") from error
        binary = LIKELIHOODS[model.likelihood].binary
        if wanted.mode and (wanted.mode == "binary") != binary:
            kind = "mode = 'binary'" if binary else "mode = 'gray' or 'rgb'"
            raise RecipeError(f"[images]: the likelihood {model.likelihood} takes {kind}, not {wanted.mode!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes back."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        del values["model"]["image_shape"]
        return values

    def change_since(self, values: Mapping[str, Any]) -> str:
        """Describe the first setting that differs from an older recipe's `to_dict`; empty if none does.

        Settings that the older recipe lacks had their defaults, and a precision of `auto` equals any.
        Raises `RecipeError` if the values are not a recipe.
        """
        older = Recipe.from_dict(with_new_names(values))
        equal = {"precision": older.training.precision} if self.training.precision == "auto" else {}
        return first_difference(older.to_dict(), replace(self, training=replace(self.training, **equal)).to_dict())

    def change_since_run(self, values: Mapping[str, Any]) -> str:
        """Describe the first setting that keeps a run of an older recipe from being resumed; empty if none does.

        As `change_since`, but `training.patience` and `training.max_epochs` may be larger than before; with `annealing`
        only `patience`, since the learning rate of every epoch depends on `max_epochs`.
        """
        older, present = Recipe.from_dict(with_new_names(values)).training, self.training
        extendable = ("patience",) if present.annealing else ("patience", "max_epochs")
        extended = {name: getattr(older, name) for name in extendable if getattr(present, name) > getattr(older, name)}
        return replace(self, training=replace(present, **extended)).change_since(values)


def find_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a `.toml` file, or the recipe of a name.

    overrides: settings to use instead of the recipe's, such as `training.max_epochs=10`; a value is written as in TOML,
               and the quotes of a string may be left out

    Raises `RecipeError` if there is no such recipe, or if a setting is wrong.
    """
    values = _read_toml(Path(name)) if name.endswith(".toml") else _named(name)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise RecipeError(f"{override!r} is not an override such as training.max_epochs=10")
        *tables, last = key.split(".")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise RecipeError(f"{override!r}: {part} is not a table")
        table[last] = _value(text)
    try:
        return Recipe.from_dict(values)
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _named(name: str) -> dict[str, Any]:
    fields = "-".join(f"({'|'.join(known)})" for known in (DATASETS, MODELS, PRIORS))
    match = re.fullmatch(rf"{fields}(?:-([1-9]\d{{0,5}}))?", name)
    if match is None:
        raise RecipeError(
            f"no recipe {name!r}; give the path of a .toml file, or {NAME_PATTERN}, with data set one of "
            f"{', '.join(DATASETS)}; model one of {', '.join(MODELS)}; prior one of {', '.join(PRIORS)}; and, if you "
            "like, -<components> at the end"
        )
    dataset, model, prior, components = match.groups()
    path = RECIPES / f"{FAMILIES.get(dataset, dataset)}.toml"
    values = _read_toml(path) if path.exists() else {}
    likelihood = "bernoulli" if DATASETS[dataset].levels == 1 else "logistic"
    table = {"likelihood": likelihood} | values.get("model", {}) | {"model": model, "prior": prior}
    if components:
        table["num_components"] = int(components)
    return values | {"name": name, "dataset": dataset, "model": table}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error


def with_new_names(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The plain values of an older recipe with the present names of its keys and values."""
    renamed: dict[str, Any] = {}
    for old, value in values.items():
        path = RENAMED.get(prefix + old, prefix + old)
        if isinstance(value, Mapping):
            value = with_new_names(value, f"{path}.")
        elif isinstance(value, str):
            value = RENAMED_VALUES.get((path, value), value)
        renamed[path.removeprefix(prefix)] = value
    return renamed


def first_difference(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> str:
    """Describe the first setting in which two recipes, as plain values, differ; empty if none does."""
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if change := first_difference(old, new, f"{prefix}{key}."):
                return change
        elif old != new:
            return f"{prefix}{key} was {old!r} and is now {new!r}"
    return ""


def _choices(kind: Any) -> list[str]:
    """The strings that a type of literals allows, alone or in a union or a tuple."""
    parts = [[part] if isinstance(part, str) else _choices(part) for part in get_args(kind)]
    return [choice for part in parts for choice in part]


def _explain(message: str) -> str:
    """A message of msgspec with the key at its beginning, and the known keys or values where it names a wrong one."""
    text, _, path = message.partition(" - at `$")
    key = path.rstrip("`").lstrip(".")
    kind: Any = Recipe
    for part in filter(None, re.sub(r"\[.*?\]", "", key).split(".")):  # [0] numbers an item of a list
        kind = get_type_hints(kind)[part]
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", text):
        wrong = f"{key}.{unknown[1]}".lstrip(".")
        if wrong in RENAMED:
            return f"{wrong} is now named {RENAMED[wrong]}"
        return f"unknown key {wrong}; known are {', '.join(kind.__struct_fields__)}"
    if text.startswith("Invalid enum value"):
        text = f"{text}; known are {', '.join(_choices(kind))}"
    if "matching regex" in text:
        text = MEANINGS[key]
    for old, new in (
        ("Object missing required field", "missing key"),
        ("`object`", "a table"),
        (f"`float` <= {LARGEST}", "a finite number"),
        (f"`float` >= {-LARGEST}", "a finite number"),
    ):
        text = text.replace(old, new)
    return f"{key}: {text[0].lower()}{text[1:]}" if key else text[0].lower() + text[1:]
