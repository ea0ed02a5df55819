"""Figures of training and evaluation: a step, against the step of the paper's public code; many images' scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import Options
from benchmarks.measure import AtLeast, AtMost, Claim, ratio, seconds_of, take_turns
from benchmarks.reference import ReferenceAdam, ReferenceHVAE, batches
from benchmarks.results import Result
from training.data import Dataset, Pixels
from training.machine import select_device
from training.recipe import find_recipe
from training.trainer import Trainer
from vampprior.layers import GatedConv

__all__ = ["RECIPE", "convolutions", "prior_cost", "step"]

RECIPE = "static_mnist-hvae-vampprior"
NUM_STEPS = 50
TARGETS = {"cpu": 2.5, "cuda": 8.0}
PRIOR_COSTS = {"hvae": 1.4, "conv_hvae": 1.9, "pixel_hvae": 1.4}
"""The VampPrior's wall-clock time over the standard prior's, with 500 pseudo-inputs, in the paper (Sec. 8.4.2)."""
CONVOLUTIONAL = "static_mnist-conv_hvae-vampprior"
CONVOLUTIONAL_STEPS = 2
PRIOR_STEPS = {"hvae": NUM_STEPS, "conv_hvae": 2, "pixel_hvae": 2}


def step(options: Options) -> Result:
    """Steps of the paper's model on images of noise, which take as long as digits."""
    device = select_device("auto", options.threads)
    size = find_recipe(RECIPE).training.batch_size
    images = _noise(NUM_STEPS * size)
    times = take_turns(
        {
            "trainer": seconds_of(_trainer(RECIPE, images, device)),
            "reference": seconds_of(_reference(images, size, device)),
        },
        rounds=options.rounds,
        unit="s",
    )
    speedup = ratio("speed over the reference", times["reference"], times["trainer"])
    settings = {"steps": NUM_STEPS, "batch_size": size, "recipe": RECIPE, "device": device.type}
    return Result([*times.values()], [Claim(speedup, AtLeast(TARGETS[device.type]))], settings)


def prior_cost(options: Options) -> Result:
    """Training steps of every two-layer model with the VampPrior and with the standard prior."""
    device = select_device("auto", options.threads)
    series, claims = [], []
    for model, in_paper in PRIOR_COSTS.items():
        vampprior, standard = (f"static_mnist-{model}-{prior}" for prior in ("vampprior", "standard"))
        images = _noise(PRIOR_STEPS[model] * find_recipe(vampprior).training.batch_size)
        contestants = {name: seconds_of(_trainer(name, images, device)) for name in (vampprior, standard)}
        times = take_turns(contestants, rounds=options.rounds, unit="s")
        series += times.values()
        claims.append(
            Claim(ratio(f"{model}, over the standard prior", times[vampprior], times[standard]), AtMost(in_paper))
        )
    return Result(series, claims, {"steps": str(PRIOR_STEPS), "device": device.type})


def convolutions(options: Options) -> Result:
    """Training steps of the convolutional model against steps with torch's layers in torch's memory layout."""
    device = select_device("auto", options.threads)
    images = _noise(CONVOLUTIONAL_STEPS * find_recipe(CONVOLUTIONAL).training.batch_size)
    times = take_turns(
        {
            "gated convolutions": seconds_of(_trainer(CONVOLUTIONAL, images, device)),
            "torch's layers": seconds_of(_trainer(CONVOLUTIONAL, images, device, _with_plain_convolutions)),
        },
        rounds=options.rounds,
        unit="s",
    )
    speedup = ratio("speed over torch's layers", times["torch's layers"], times["gated convolutions"])
    settings = {"steps": CONVOLUTIONAL_STEPS, "recipe": CONVOLUTIONAL, "device": device.type}
    return Result([*times.values()], [Claim(speedup, AtLeast(2.0))], settings)


def _with_plain_convolutions(model: nn.Module) -> None:
    """Compute the gated convolutions of a model as `torch.nn.Conv2d` and `glu` do."""
    for layer in model.modules():
        if isinstance(layer, GatedConv):
            layer.forward = partial(_plain_gated_convolution, layer.conv)  # type: ignore[method-assign]


def _plain_gated_convolution(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.glu(F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding), dim=1)


def _noise(count: int) -> Pixels:
    """Images that take as long as digits."""
    return np.random.default_rng(0).integers(0, 2, (count, 1, 28, 28)).astype(np.uint8)


def _trainer(
    recipe: str, images: Pixels, device: torch.device, change: Callable[[nn.Module], None] | None = None
) -> Callable[[], None]:
    """The steps of an epoch as `training` takes them, without validation; `change` modifies the model first."""
    dataset = Dataset("noise", images, images[:2], images[:2], levels=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(find_recipe(recipe), dataset, Path(folder), device)
    if change is not None:
        change(trainer.model)

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
