"""The figure `small-sets`: settings of a training on few images, changed one at a time."""

from __future__ import annotations

import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Options
from benchmarks.measure import Series
from benchmarks.results import Result, Table
from benchmarks.small_sets.sets import SETS
from training.data import Dataset
from training.init import recipe_text
from training.recipe import Recipe
from training.trainer import Trainer
from vampprior.latent_model import LatentModel

__all__ = ["BASE", "recipe_of", "small_sets"]

SEEDS = (1,)
DRAWS = 16
"""Latent samples per image in the ELBO that is reported."""
STEPS = {"hvae": 900, "resnet_hvae": 200}
"""Most steps of a training, fewer than `init` allows, so that one takes less than a minute."""
BASE: Mapping[str, Any] = {
    "training.weight_decay": 0.1,
    "training.ema_decay": 0.99,
    "images.augment": ["shift"],
    "model.z1_dim": 20,
    "model.z2_dim": 20,
    "model.hidden_dim": 150,
    "model.prior": "vampprior",
    "pseudo_inputs.start": "kmeans",
    "pseudo_inputs.std": 0.0,
}
"""Settings that the changes are compared with; all others are those of `training init`."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "weight decay 0": {"training.weight_decay": 0.0},
    "weight decay 1": {"training.weight_decay": 1.0},
    "no EMA": {"training.ema_decay": 0.0},
    "no shift": {"images.augment": []},
    "10 latents": {"model.z1_dim": 10, "model.z2_dim": 10},
    "40 latents": {"model.z1_dim": 40, "model.z2_dim": 40},
    "start images": {"pseudo_inputs.start": "images"},
    "start noise": {"pseudo_inputs.start": "noise", "pseudo_inputs.std": 0.05},
    "vampprior_data": {"model.prior": "vampprior_data"},
}


def small_sets(options: Options) -> Result:
    """Train on each set with the base settings and with each change of them, from two seeds."""
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    lines, gaps, series = [], [], []
    for name, load in SETS.items():
        dataset = load()
        found = {change: np.array([_elbos(dataset, change, seed) for seed in SEEDS]) for change in CHANGES}
        base = found["base"]
        lines.append(
            [name, f"{base[:, 1].mean():.1f}", *(_cell(found[c][:, 1] - base[:, 1]) for c in list(CHANGES)[1:])]
        )
        gaps.append([name, *(f"{(found[c][:, 0] - found[c][:, 1]).mean():.1f}" for c in CHANGES)])
        series += [Series(f"{name}: test ELBO, {c}", "nats", found[c][:, 1].round(2).tolist()) for c in CHANGES]
    tables = [
        Table(
            "Test ELBO of the base settings in nats, and what each change adds to it (seeds)", ["set", *CHANGES], lines
        ),
        Table("ELBO of the training images less that of the test images in nats", ["set", *CHANGES], gaps),
    ]
    settings = {"seeds": list(SEEDS), "draws": DRAWS, "steps": STEPS}
    return Result(series, [], settings | {"minutes": round((time.perf_counter() - started) / 60, 1)}, tables)


def _elbos(dataset: Dataset, change: str, seed: int) -> tuple[float, float]:
    """ELBO of the training and of the test images after a training."""
    recipe = recipe_of(dataset, {**BASE, **CHANGES[change], "training.seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, dataset, Path(folder), torch.device("cpu"))
        started = time.perf_counter()
        while not trainer.finished:
            trainer.run_epoch()
        trainer.folder.wait()
        model = trainer.best_model()
    elbos = _elbo(model, dataset.gray("train")), _elbo(model, dataset.gray("test"))
    seconds = time.perf_counter() - started
    print(
        f"{dataset.name}, {change}, seed {seed}: train {elbos[0]:.1f}, test {elbos[1]:.1f}, "
        f"valid {trainer.best_elbo:.1f}, epoch {trainer.best_epoch} of {trainer.epoch}, {seconds:.0f} s",
        flush=True,
    )
    return elbos


def recipe_of(dataset: Dataset, changes: Mapping[str, Any]) -> Recipe:
    """The recipe that `init` writes for the images, shorter and with changes."""
    values = tomllib.loads(recipe_text(dataset.name, f"{dataset.name}.npz", dataset))
    training = values["training"]
    epochs = min(training["max_epochs"], STEPS[values["model"]["model"]] * training["batch_size"] // len(dataset.train))
    training |= {"max_epochs": epochs, "warmup_epochs": epochs // 5, "patience": max(20, epochs // 10)}
    for key, value in changes.items():
        table, name = key.split(".")
        values[table][name] = value
    return Recipe.from_dict(values)


@torch.inference_mode()
def _elbo(model: LatentModel, gray: np.ndarray) -> float:
    """Mean ELBO of images in nats, from several latent samples each."""
    x, generator = model.likelihood.from_bytes(torch.from_numpy(gray)), torch.Generator().manual_seed(0)
    mixture, totals = model.prior_mixture(), []
    for _ in range(DRAWS):
        noise = torch.randn(len(x), 1, model.noise_dim, generator=generator)
        totals.append(model(x, noise=noise, mixture=mixture).value.mean())
    return float(torch.stack(totals).mean())


def _cell(differences: np.ndarray) -> str:
    """Mean difference, and that of each seed."""
    return f"{differences.mean():+.1f} ({', '.join(f'{value:+.1f}' for value in differences)})"
