"""Tiny models of every registered kind, prior and likelihood, in float64, and images to feed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from vampprior import LIKELIHOODS, MODELS, PRIORS, LatentModel, ModelConfig, build_model

TINY = {"image_shape": (1, 4, 4), "z1_dim": 3, "z2_dim": 2, "hidden_dim": 7, "num_components": 5, "width": 8}
SMALLEST_IMAGES = {"resnet_hvae": (1, 8, 8)}
"""Shapes for the models that do not take 4x4 pixels."""
COLOUR_MODELS = ("conv_hvae", "hvae", "resnet_hvae", "vae")
COLOUR_LIKELIHOODS = ("discretized_logistic", "logistic_mixture")
KINDS = [
    *product(sorted(MODELS), sorted(PRIORS), ["bernoulli"], ["gray"]),
    *product(sorted(MODELS), ["vampprior"], sorted(set(LIKELIHOODS) - {"bernoulli"}), ["gray"]),
    *product(COLOUR_MODELS, ["vampprior"], COLOUR_LIKELIHOODS, ["colour"]),
]


@pytest.fixture(autouse=True)
def fixed_seed_and_one_thread() -> Iterator[None]:
    """Every test starts from the same random state, sums in the same order, and leaves torch as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_config() -> Callable[..., ModelConfig]:
    """A config small enough for thousands of rows; keywords change it."""

    def make(**changes: Any) -> ModelConfig:
        shape = SMALLEST_IMAGES.get(changes.get("model", ""), TINY["image_shape"])
        return ModelConfig(**(TINY | {"image_shape": shape} | changes))

    return make


@pytest.fixture
def tiny_model(tiny_config: Callable[..., ModelConfig]) -> Callable[..., LatentModel]:
    """Builds a tiny model in float64, moved off the zeros that hide mistakes (equal weights, equal images)."""

    def make(**changes: Any) -> LatentModel:
        model = build_model(tiny_config(**changes)).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(0.0, 0.3)
        images = model.prior.pseudo_inputs
        if images is not None:
            model.prior.init_pseudo_inputs(torch.empty_like(images).uniform_(0.1, 0.9))
        return model

    return make


@pytest.fixture(params=KINDS, ids="-".join)
def config(request: pytest.FixtureRequest, tiny_config: Callable[..., ModelConfig]) -> ModelConfig:
    """Every model with every prior, with every likelihood, and the pairs of model and likelihood for colour images."""
    model, prior, likelihood, mode = request.param
    config = tiny_config(model=model, prior=prior, likelihood=likelihood)
    channels = 3 if mode == "colour" else 1
    return replace(config, image_shape=(channels, *config.image_shape[1:]))


@pytest.fixture
def model(config: ModelConfig, tiny_model: Callable[..., LatentModel]) -> LatentModel:
    return tiny_model(
        model=config.model, prior=config.prior, likelihood=config.likelihood, image_shape=config.image_shape
    )


@pytest.fixture
def images(config: ModelConfig) -> Tensor:
    """Three images that the config's likelihood takes, (3, C, H, W)."""
    gray = torch.rand(3, *config.image_shape, dtype=torch.float64)
    return gray.round() if LIKELIHOODS[config.likelihood].binary else gray


@pytest.fixture
def draw_noise() -> Callable[..., Tensor]:
    """Standard-normal numbers in float64, of the shape given."""
    return lambda *shape: torch.randn(shape, dtype=torch.float64)
