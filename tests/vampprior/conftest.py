"""Tiny models of every registered kind, prior and likelihood, in float64, and images to feed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from vampprior import LIKELIHOODS, MODELS, PRIORS, LatentModel, ModelConfig, build_model

TINY = {"image_shape": (1, 4, 4), "z1_dim": 3, "z2_dim": 2, "hidden_dim": 7, "num_components": 5}


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    """Every test starts from the same random state and leaves the global one as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def tiny_config() -> Callable[..., ModelConfig]:
    """A config small enough for thousands of rows; keywords change it."""

    def make(**changes: Any) -> ModelConfig:
        return ModelConfig(**(TINY | changes))

    return make


@pytest.fixture
def tiny_model(tiny_config: Callable[..., ModelConfig]) -> Callable[..., LatentModel]:
    """Builds a tiny model in float64; keywords change its config."""
    return lambda **changes: build_model(tiny_config(**changes)).double().eval()


@pytest.fixture(params=product(sorted(MODELS), sorted(PRIORS), sorted(LIKELIHOODS)), ids="-".join)
def config(request: pytest.FixtureRequest, tiny_config: Callable[..., ModelConfig]) -> ModelConfig:
    """Every model kind with every prior and every likelihood."""
    model, prior, likelihood = request.param
    return tiny_config(model=model, prior=prior, likelihood=likelihood)


@pytest.fixture
def model(config: ModelConfig) -> LatentModel:
    return build_model(config).double().eval()


@pytest.fixture
def images(config: ModelConfig) -> Tensor:
    """Three images that the config's likelihood takes, (3, C, H, W)."""
    gray = torch.rand(3, *config.image_shape, dtype=torch.float64)
    return gray.round() if LIKELIHOODS[config.likelihood].binary else gray


@pytest.fixture
def draw_noise() -> Callable[..., Tensor]:
    """Standard-normal numbers in float64, of the shape given."""
    return lambda *shape: torch.randn(shape, dtype=torch.float64)
