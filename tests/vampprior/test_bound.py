"""The bound of several draws of the latents per image, which training maximizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vampprior import LIKELIHOODS, MODELS, LatentModel, ModelConfig, build_model


def model_of(kind: str = "hvae", likelihood: str = "bernoulli") -> LatentModel:
    torch.manual_seed(0)
    config = ModelConfig(
        kind, "vampprior", likelihood, image_shape=(1, 8, 8), z1_dim=2, z2_dim=3, hidden_dim=8, num_components=4
    )
    return build_model(config).double().eval()


def images(likelihood: str = "bernoulli") -> Tensor:
    gray = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    return LIKELIHOODS[likelihood].from_bytes(gray).double()


def noise_for(model: LatentModel, draws: int) -> Tensor:
    shape = (6, draws, model.noise_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_one_draw_gives_the_elbo() -> None:
    model, x = model_of(), images()
    noise = noise_for(model, 1)
    bound, elbo = model(x, noise, 0.25), model.elbo(x, noise=noise[:, 0], kl_weight=0.25)
    assert torch.equal(bound.value, elbo.value)
    assert torch.equal(bound.bound, elbo.reconstruction - elbo.kl)
    assert torch.equal(bound.reconstruction, elbo.reconstruction)
    assert torch.equal(bound.kl, elbo.kl)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("kind", MODELS)
def test_several_draws_average_their_importance_weights(kind: str, likelihood: str) -> None:
    model, x = model_of(kind, likelihood), images(likelihood)
    noise = noise_for(model, 5)
    each = [model.elbo(x, noise=noise[:, draw]) for draw in range(5)]
    log_weights = torch.stack([elbo.bound for elbo in each], 1)
    bound = model(x, noise)
    torch.testing.assert_close(bound.value, log_weights.exp().mean(1).log())
    torch.testing.assert_close(bound.bound, bound.value)
    torch.testing.assert_close(bound.reconstruction - bound.kl, log_weights.mean(1))


def test_the_kl_weight_is_in_what_is_maximized_and_not_in_the_bound() -> None:
    model, x = model_of(), images()
    noise = noise_for(model, 3)
    half, full = model(x, noise, 0.5), model(x, noise)
    each = [model.elbo(x, noise=noise[:, draw], kl_weight=0.5).value for draw in range(3)]
    torch.testing.assert_close(half.value, torch.stack(each).exp().mean(0).log())
    assert torch.equal(half.bound, full.bound)


@pytest.mark.slow
def test_more_draws_make_the_bound_tighter() -> None:
    """On the average over many noises (Burda et al., 2016, Theorem 1)."""
    model, x = model_of(), images()
    noise = noise_for(model, 4096)
    means = []
    for draws in (1, 4, 16, 64):
        groups = noise.unflatten(1, (-1, draws)).unbind(1)
        means.append(torch.stack([model(x, group).bound for group in groups]).mean().item())
    assert means == sorted(means)
    assert means[-1] - means[0] > 0.01


def test_the_gradient_weighs_draws_by_their_importance() -> None:
    model, x = model_of(), images()
    noise = noise_for(model, 3)
    shares = torch.softmax(torch.stack([model.elbo(x, noise=noise[:, d]).value for d in range(3)], 1), 1).detach()
    model(x, noise).value.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name, _ in model.named_parameters()}
    model.zero_grad()
    sum((shares[:, d] * model.elbo(x, noise=noise[:, d]).value).sum() for d in range(3)).backward()  # type: ignore[union-attr]
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad)


def test_equal_weights_lose_nothing() -> None:
    model, x = model_of(), images()
    noise = noise_for(model, 1)
    torch.testing.assert_close(model(x, noise.expand(-1, 7, -1)).value, model(x, noise).value)
    assert math.isfinite(model(x, 1e3 * noise).value.sum().item())
