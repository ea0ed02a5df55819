"""Proposals that are fitted to an image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vampprior.importance import log_likelihood
from vampprior.latent_model import LatentModel
from vampprior.models import MODELS
from vampprior.refinement import DRAWS, Proposal, fit_proposal

Build = Callable[..., LatentModel]


COLOUR = {"model": "resnet_hvae", "likelihood": "logistic_mixture", "image_shape": (3, 8, 8)}


@pytest.fixture(params=[*({"model": name} for name in MODELS), COLOUR], ids=[*MODELS, "colour"])
def model(request: pytest.FixtureRequest, tiny_model: Build) -> LatentModel:
    return tiny_model(**request.param).eval()


@pytest.fixture
def images(model: LatentModel) -> Tensor:
    shape = (4, *model.config.image_shape)
    return torch.bernoulli(torch.full(shape, 0.5, dtype=next(model.parameters()).dtype), generator=seeded(1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(model: LatentModel, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, model.noise_dim, dtype=next(model.parameters()).dtype, generator=seeded(seed))


def fit(model: LatentModel, images: Tensor, steps: int) -> Proposal:
    with torch.no_grad():
        mixture = model.prior_mixture()
    return fit_proposal(model, images, normal(model, steps, len(images), DRAWS), mixture)


def bound(model: LatentModel, images: Tensor, proposal: Proposal) -> Tensor:
    """Evidence lower bound of each image, from fresh noise."""
    with torch.no_grad():
        context = tuple(part.unsqueeze(1) for part in model.condition(images))
        noise = normal(model, len(images), 400, seed=2)
        log_px, kl = proposal.log_px_and_kl(model, images.unsqueeze(1), context, noise, model.prior_mixture())
        return (log_px - kl).mean(1)


def posterior(model: LatentModel, images: Tensor) -> Proposal:
    zeros = torch.zeros(len(images), model.noise_dim, dtype=images.dtype)
    return Proposal(zeros, zeros)


def test_the_density_is_that_of_the_moved_normals(model: LatentModel, images: Tensor) -> None:
    """A proposal's log-weight is log p(x, z) less the log-density that its normals give z."""
    proposal = Proposal(normal(model, len(images), seed=3), 0.3 * normal(model, len(images), seed=4))
    noise = normal(model, len(images), seed=5)
    with torch.no_grad():
        mixture, context = model.prior_mixture(), model.condition(images)
        context = tuple(part.unsqueeze(1) for part in context)
        log_px, kl = proposal.log_px_and_kl(model, images.unsqueeze(1), context, noise.unsqueeze(1), mixture)
        moved = proposal.shift + proposal.log_scale.exp() * noise
        drawn = model.rsample(model.condition(images), moved)
        standard = torch.distributions.Normal(0.0, 1.0)
        log_std = standard.log_prob(moved).sum(-1) - drawn.log_q  # of the posterior, summed
        log_density = (standard.log_prob(noise) - proposal.log_scale).sum(-1) - log_std
        expected = model.log_px(images, drawn.latents) + model.log_p(drawn.latents, mixture) - log_density
    torch.testing.assert_close((log_px - kl).squeeze(1), expected)


def test_fitting_raises_the_bound(model: LatentModel, images: Tensor) -> None:
    before = bound(model, images, posterior(model, images))
    after = bound(model, images, fit(model, images, 60))
    assert (after > before).all(), (before, after)


def test_images_do_not_influence_each_other(model: LatentModel, images: Tensor) -> None:
    noise = normal(model, 5, len(images), DRAWS)
    with torch.no_grad():
        mixture = model.prior_mixture()
    together = fit_proposal(model, images, noise, mixture)
    alone = [fit_proposal(model, images[[k]], noise[:, [k]], mixture) for k in range(len(images))]
    for column, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(column, torch.cat(parts))


def test_without_steps_the_proposal_is_the_posterior(model: LatentModel, images: Tensor) -> None:
    assert all(not column.any() for column in fit(model, images, 0))


def test_the_model_gets_no_gradients(model: LatentModel, images: Tensor) -> None:
    fit(model, images, 2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_refined_estimate_repeats_and_does_not_touch_the_plain_one(model: LatentModel, images: Tensor) -> None:
    def score(refine: int, seed: int = 1) -> Tensor:
        return log_likelihood(model, images, num_samples=50, refine=refine, generator=seeded(seed)).value

    assert torch.equal(score(3), score(3))
    assert not torch.equal(score(3), score(0))
    assert torch.equal(score(0), log_likelihood(model, images, num_samples=50, generator=seeded(1)).value)
    with pytest.raises(ValueError, match="refine"):
        score(-1)
