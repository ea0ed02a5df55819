"""Figures of training and evaluation: a step, against the step of the paper's public code; many images' scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import Options
from benchmarks.measure import AtLeast, Claim, ratio, seconds_of, take_turns
from benchmarks.reference import ReferenceAdam, ReferenceHVAE, batches
from benchmarks.results import Result
from training.catalogue import find_recipe
from training.data.splits import Dataset, Pixels
from training.machine import DeviceChoice, prepare
from training.trainer import Trainer

__all__ = ["RECIPE", "step"]

RECIPE = "static_mnist-hvae-vampprior"
NUM_STEPS = 50
TARGETS = {"cpu": 2.5, "cuda": 8.0}


def step(options: Options) -> Result:
    """Steps of the paper's model on images of noise, which take as long as digits."""
    device = prepare(DeviceChoice.AUTO, options.threads)
    size = find_recipe(RECIPE).training.batch_size
    images = np.random.default_rng(0).integers(0, 2, (NUM_STEPS * size, 1, 28, 28)).astype(np.uint8)
    times = take_turns(
        {"trainer": seconds_of(_trainer(images, device)), "reference": seconds_of(_reference(images, size, device))},
        rounds=options.rounds,
        unit="s",
    )
    speedup = ratio("speed over the reference", times["reference"], times["trainer"])
    settings = {"steps": NUM_STEPS, "batch_size": size, "recipe": RECIPE, "device": device.type}
    return Result([*times.values()], [Claim(speedup, AtLeast(TARGETS[device.type]))], settings)


def _trainer(images: Pixels, device: torch.device) -> Callable[[], None]:
    """The steps of an epoch as `training` takes them, without validation."""
    dataset = Dataset("noise", images, images[:500], images[:2], levels=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(find_recipe(RECIPE), dataset, Path(folder), device)

    def run() -> None:
        trainer.train_epoch(0.5, torch.Generator(device).manual_seed(0))  # which waits for the device at its end

    return run


def _reference(images: Pixels, size: int, device: torch.device) -> Callable[[], None]:
    """As many steps as the paper's public code takes them, which looks at the loss after each."""
    model = ReferenceHVAE().to(device)
    optimizer = ReferenceAdam(model)
    source = batches(torch.from_numpy(images), size, device)

    def run() -> None:
        for _ in range(NUM_STEPS):
            model.zero_grad()
            loss = model.loss(next(source), 0.5)
            loss.backward()
            optimizer.step()
            loss.item()

    return run
