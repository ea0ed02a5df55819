from __future__ import annotations

import pytest
import torch
from torch import nn

from training.optim import NormalizedAdam, build_optimizer, parameter_groups
from training.recipe import Optimization
from vampprior import MODELS, PRIORS, ModelConfig, build_model


def reference_step(parameters: list[nn.Parameter], adam: torch.optim.Adam) -> None:
    """One parameter tensor after the other: divide its gradient by its norm, then plain Adam."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= parameter.grad.norm() + 1e-7
    adam.step()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_is_adam_on_normalized_gradients(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (7,), (2, 3, 4)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = NormalizedAdam(ours, lr=5e-4)
    adam = torch.optim.Adam(theirs, lr=5e-4, foreach=False)
    for step in range(20):
        for scale, p, q in zip((1e-6, 1.0, 1e6), ours, theirs, strict=True):
            p.grad = scale * torch.randn(p.shape, generator=generator, dtype=dtype)
            q.grad = p.grad.clone()
        if step == 7:  # a parameter that took no part
            ours[1].grad = theirs[1].grad = None
        optimizer.step()
        reference_step(theirs, adam)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_a_gradient_of_zero_moves_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    NormalizedAdam([parameter], lr=0.1).step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("model", MODELS)
def test_decay_is_for_the_weights_of_layers(model: str, prior: str) -> None:
    config = ModelConfig(model=model, prior=prior, image_shape=(1, 8, 8), hidden_dim=8, num_components=3)
    built = build_model(config)
    decayed, others = parameter_groups(built, 0.25)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.25, 0.0)
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    assert sorted(names[id(p)] for p in decayed["params"] + others["params"]) == sorted(names.values())
    assert all(names[id(p)].endswith(".weight") for p in decayed["params"])
    assert not {names[id(p)] for p in others["params"] if p.ndim > 1} - {
        name for name in names.values() if "prior" in name
    }


def test_decay_takes_its_part_of_a_weight_and_leaves_the_gradient_alone() -> None:
    start = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    plain, decaying = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [
        NormalizedAdam([{"params": [plain]}], lr=0.01),
        NormalizedAdam([{"params": [decaying], "weight_decay": 0.5}], lr=0.01),
    ]
    for parameter, optimizer in zip((plain, decaying), optimizers, strict=True):
        parameter.grad = torch.full_like(parameter, 3.0)
        optimizer.step()
    torch.testing.assert_close(decaying - plain, -0.01 * 0.5 * start)


@pytest.mark.parametrize("normalize_gradients", [True, False])
def test_the_learning_rate_is_a_tensor_that_a_step_reads(normalize_gradients: bool) -> None:
    model = build_model(ModelConfig(model="vae", prior="standard", image_shape=(1, 4, 4), hidden_dim=4))
    settings = Optimization(learning_rate=0.01, normalize_gradients=normalize_gradients)
    optimizer = build_optimizer(model, settings, torch.device("cpu"))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert all(isinstance(rate, torch.Tensor) for rate in rates)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for rate in rates:
        rate.fill_(0.25)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):  # Adam's first step is the rate itself
        torch.testing.assert_close(old - new, torch.full_like(old, 0.25), rtol=1e-4, atol=0.0)
