"""What a model computes stays on its device, and never waits there for a value: so it is as fit for a GPU as for a CPU.

On the meta device, which has shapes and no values, an operation with a tensor that was left on the CPU raises an error,
and so does a branch that hangs on a value.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vampprior import LatentModel, ModelConfig, build_model
from vampprior.latent_model import draw_random

META = torch.device("meta")


@pytest.fixture
def elsewhere(config: ModelConfig) -> LatentModel:
    return build_model(config).to(META)


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device=META)


def test_training_stays_on_the_models_device(elsewhere: LatentModel, config: ModelConfig) -> None:
    elbo = elsewhere.elbo(
        empty(6, *config.image_shape), noise=empty(6, elsewhere.noise_dim), kl_weight=torch.tensor(0.5, device=META)
    )
    elbo.value.mean().backward()
    assert {p.grad.device for p in elsewhere.parameters() if p.grad is not None} == {META}


@torch.no_grad()
def test_inference_stays_on_the_models_device(elsewhere: LatentModel, config: ModelConfig) -> None:
    model, x = elsewhere.eval(), empty(6, *config.image_shape)
    mixture = model.prior_mixture()
    bound = model(x, empty(6, 9, model.noise_dim), mixture=mixture)
    assert (bound.bound.shape, bound.bound.device) == ((6,), META)
    top = next(iter(model.encode(x).values()))
    assert mixture.responsibilities(top.mean).device == META


@torch.no_grad()
def test_sampling_stays_on_the_models_device(elsewhere: LatentModel, config: ModelConfig) -> None:
    model = elsewhere.eval()
    drawn = model.sample(6, pixel_noise=empty(6, config.num_pixels))
    assert (drawn.shape, drawn.device) == ((6, *config.image_shape), META)


def test_numbers_are_drawn_on_the_device_of_the_generator() -> None:
    """A seed then gives the same numbers whatever the device of the model."""
    drawn: list[Tensor] = []

    def draw(shape: tuple[int, ...], **options: Any) -> Tensor:
        drawn.append(torch.randn(shape, **options))
        return drawn[-1]

    like = torch.empty(1, device=META, dtype=torch.float64)
    numbers = draw_random(draw, (3,), like, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[0], torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert (numbers.shape, numbers.device, numbers.dtype) == ((3,), META, torch.float64)
    draw_random(draw, (3,), like, None)
    assert drawn[1].device == META
