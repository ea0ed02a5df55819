"""`python -m training init`: look at a user's own images, and write a recipe that suits them."""

from __future__ import annotations

import math
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import typer

from training.data import Dataset, load_dataset
from training.data.own_images import CALIBRATION_IMAGES, FEW_IMAGES
from training.data.survey import look_at
from training.machine import select_device
from training.recipe import Recipe, RecipeError
from training.terminal import Device, Threads, interruptible
from training.trainer import Trainer
from vampprior.files import atomic_write
from vampprior.likelihoods import LIKELIHOODS
from vampprior.preparation import Preparation

__all__ = ["init", "recipe_text"]

MEASURED_SECONDS = 5.0
SMALL_SET = 2000
"""Training images below which a recipe guards against overfitting; docs/small-sets.md has the measurements."""
SHIFTED_SIDE = 16
"""Shortest side of images that are shifted: the smallest shift, one pixel, changes smaller ones too much."""
LIKELIHOOD = {"binary": "bernoulli", "gray": "discretized_logistic", "rgb": "logistic_mixture"}
STEPS, COMPONENTS = {"hvae": 20_000, "resnet_hvae": 2_000}, {"hvae": 500, "resnet_hvae": 50}
"""Most steps of a training, and most pseudo-inputs, which pass through the encoder in every step."""


def init(
    images: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of image files, or an .npz or .npy file of arrays.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="File of the recipe, by default FOLDER's name with .toml.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, max=128, help="Pixels a side of the prepared images.")] = None,
    mode: Annotated[
        Literal["rgb", "gray", "binary"] | None, typer.Option(help="Channels and levels of the prepared images.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of the recipe if there is one.")] = False,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Look at your own images, say what is there, and write a recipe that suits them."""
    target = output or Path(f"{_name(images)}.toml")
    if target.exists() and not force:
        raise RecipeError(f"{target} exists; give another --output, or replace it with --force")
    if target.suffix != ".toml":
        raise RecipeError(f"--output {target} must end in .toml, as `train` expects of a recipe")
    with interruptible(lambda: "nothing was written"):
        machine = select_device(device, threads)
        survey = look_at(images.expanduser(), (size, size) if size else None, mode)
        for line in survey.lines:
            print(line)
        place, wanted = str(images.expanduser().resolve()), survey.wanted
        likelihood = LIKELIHOODS[LIKELIHOOD[wanted.mode or "gray"]]
        dataset = load_dataset(place, likelihood=likelihood, wanted=wanted)
        for notice in dataset.notices:
            print(notice)
        text = recipe_text(_name(images), place, dataset)
        print("measuring the time of a few steps", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe.from_dict(tomllib.loads(text))
            seconds = Trainer(recipe, dataset, Path(folder), machine).seconds_per_epoch(MEASURED_SECONDS)
    training = recipe.training
    text = text.replace("ABOUT_TIME", f"about {_duration(seconds)} an epoch on this machine")
    with atomic_write(target) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{target}: {recipe.model.model}, {recipe.model.likelihood}, {_preparation(dataset).describe()}")
    print(
        f"{len(dataset.train):,} images for training, {len(dataset.valid):,} for validation and calibration, "
        f"{len(dataset.test):,} for the test; {_smallest_p_value(len(dataset.valid))}"
    )
    print(
        f"training takes about {_duration(seconds)} an epoch here, and {_duration(seconds * training.max_epochs)} for "
        f"at most {training.max_epochs:,} epochs; it stops after {training.patience} epochs without improvement"
    )
    print(f"next:\n  python -m training train {target}")


def recipe_text(name: str, place: str, dataset: Dataset) -> str:
    """A commented recipe in TOML that suits a data set of own images; `ABOUT_TIME` stands for the time of an epoch.

    name:  name of the checkpoint
    place: path of the images
    """
    preparation, number = _preparation(dataset), len(dataset.train)
    height, width = preparation.size
    model = "resnet_hvae" if preparation.mode == "rgb" or max(height, width) > 32 else "hvae"
    small = number < SMALL_SET
    components = max(10, min(COMPONENTS[model], number // 4))
    batch_size = 100 if number >= SMALL_SET else max(16, min(50, number // 10))
    max_epochs = max(50, min(2000, STEPS[model] // math.ceil(number / batch_size)))
    latents = 20 if small else 40
    network = (
        "depth = 1  # residual blocks per resolution\nwidth = 16  # channels at the finest resolution"
        if model == "resnet_hvae"
        else f"hidden_dim = {150 if small else 300}"
    )
    regularization = (
        "weight_decay = 0.1  # against overfitting, since there are few images\n"
        "ema_decay = 0.99  # validate and keep a moving average of the weights"
        if small
        else "ema_decay = 0.999  # validate and keep a moving average of the weights"
    )
    augment = '["shift"]' if small and min(height, width) >= SHIFTED_SIDE else "[]"
    size = f"{height}" if height == width else f"[{height}, {width}]"
    return f"""\
# Written by `python -m training init`. Change what you like; docs/training.md describes every setting.
# Train with: python -m training train <this file>
name = "{name}"  # of the checkpoint: lower-case letters, digits, '.', '_' and '-'
dataset = {_quoted(place)}

[images]  # {number:,} for training, {len(dataset.valid):,} for validation, {len(dataset.test):,} for the test
size = {size}  # pixels a side, or [height, width]; twice as many show more and take about 4 times as long
mode = "{preparation.mode}"  # rgb, gray or binary (black and white)
fit = "{preparation.fit}"  # crop to the middle, pad with black, or stretch
augment = {augment}  # "shift" and "flip" (left and right) make new training images of few

[model]
model = "{model}"
prior = "vampprior"
likelihood = "{LIKELIHOOD[preparation.mode]}"
z1_dim = {latents}
z2_dim = {latents}
{network}
num_components = {components}  # pseudo-inputs, the prototypes of the model

[pseudo_inputs]
start = "kmeans"  # training images far apart; "images" for random ones, "noise" for noise as in the paper
std = 0.0  # of noise added to them

[training]  # ABOUT_TIME
learning_rate = 1e-3
batch_size = {batch_size}
warmup_epochs = {min(100, max(5, max_epochs // 5))}  # epochs over which the KL weight rises from 0 to 1
max_epochs = {max_epochs:_}
patience = {max(20, min(100, max_epochs // 10))}  # epochs without a better validation ELBO before training stops
{regularization}
precision = "auto"  # bfloat16 where that is faster
"""


def _name(images: Path) -> str:
    """A name for the checkpoint, from that of the folder or the file."""
    stem = images.expanduser().resolve().stem.lower()
    return re.sub("[^a-z0-9._-]+", "-", stem).strip("._-")[:80] or "own-images"


def _preparation(dataset: Dataset) -> Preparation:
    if dataset.preparation is None:
        raise RecipeError(f"{dataset.name} has images of 3 channels in black and white; give --mode binary or rgb")
    return dataset.preparation


def _smallest_p_value(num_valid: int) -> str:
    if num_valid < FEW_IMAGES:
        return f"too few to decide whether an image is new: that needs {FEW_IMAGES}, of 100 images in all"
    smallest = f"the smallest p-value of an image is 1 / {num_valid + 1} = {1 / (num_valid + 1):.2g}"
    if num_valid < CALIBRATION_IMAGES:
        return f"{smallest}, so false-alarm rates below it need more images, 495 in all for 0.01"
    return smallest


def _duration(seconds: float) -> str:
    """A time with its unit, rounded as befits an estimate."""
    for unit, length in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 2 else f"{seconds:.1g} seconds"


def _quoted(text: str) -> str:
    """A string in TOML."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
