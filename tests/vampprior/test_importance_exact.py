"""The importance-sampling estimate against p(x) itself, which quadrature gives where latents are numbers, not vectors.

Quadrature goes down from the prior (`component`, `ancestral_sample`, `decode`) and never meets an encoder's density;
importance sampling goes up through the posterior. That they agree says that all densities of the bound are right and
normalized.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from vampprior import (
    LIKELIHOODS,
    MODELS,
    PRIORS,
    LatentModel,
    LogLikelihood,
    ModelConfig,
    build_model,
    log_likelihood,
)
from vampprior.layers import NormalHead

Build = Callable[..., LatentModel]
SMALL = {"image_shape": (1, 2, 2), "z1_dim": 1, "z2_dim": 1, "num_components": 3}
NODES = {"vae": 2001, "hvae": 121}  # per latent number; fewer where convolutions make each of them dear


@torch.no_grad()
def exact_log_likelihood(model: LatentModel, images: Tensor, refine: int = 1) -> Tensor:
    """log sum_k w_k int int p(x | z) N(e) de, by the trapezoid rule over the noise e of an ancestral draw, (N,)."""
    nodes = refine * NODES.get(model.config.model, 31)
    axis = torch.linspace(-8.5, 8.5, nodes, dtype=torch.float64)
    noise = torch.cartesian_prod(*[axis] * model.noise_dim).reshape(-1, model.noise_dim)
    log_mass = (-0.5 * (noise.square() + math.log(2.0 * math.pi)) + torch.log(axis[1] - axis[0])).sum(-1)
    mixture, total = model.prior_mixture(), torch.full((len(images),), -math.inf, dtype=torch.float64)
    for k, log_weight in enumerate(mixture.log_weights):
        latents = model.ancestral_sample(mixture.component(torch.full((len(noise),), k)), noise)
        shared = tuple(part.expand(len(images), *part.shape) for part in latents)
        log_joint = model.log_px(images.unsqueeze(1), shared) + log_mass + log_weight
        total = torch.logaddexp(total, log_joint.logsumexp(1))
    return total


def takes_small_images(name: str) -> bool:
    try:
        build_model(ModelConfig(model=name, **SMALL))
    except ValueError:
        return False
    return True


SMALL_MODELS = [name for name in sorted(MODELS) if takes_small_images(name)]
BINARY = [name for name in sorted(LIKELIHOODS) if LIKELIHOODS[name].binary]
SMALL_KINDS = [*product(SMALL_MODELS, sorted(PRIORS), sorted(LIKELIHOODS))]
# each row of a convolutional model costs a hundred times as much, so these go without the mixtures, and fewer nodes do
LARGER_IMAGES = {"resnet_hvae": (1, 8, 8)}
LARGER_KINDS = [
    pytest.param(
        (model, "standard", name), marks=[pytest.mark.slow] if model == "pixel_hvae" and name != "bernoulli" else []
    )
    for model in MODELS
    if model not in SMALL_MODELS
    for name in LIKELIHOODS
]


@pytest.fixture
def small(tiny_model: Build) -> Build:
    """Builds models whose posteriors overlap their priors and are the wider ones, and whose pixels are undecided.

    Then importance weights have all their moments, and standard errors can be believed. Of an untrained posterior they
    may have no variance. Log-variances vary about 1.5 under q and about 0 under p.
    """

    def make(**names: str) -> LatentModel:
        name = names.get("model", "hvae")
        shape = (1, 2, 2) if takes_small_images(name) else LARGER_IMAGES.get(name, (1, 4, 4))
        model = tiny_model(**names, **(SMALL | {"image_shape": shape}))
        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, NormalHead):
                    module.linear.weight.mul_(0.1)
                    module.linear.bias[1:].fill_(1.5 if name.startswith("q_") else 0.0)
                elif name == "p_x.pixels":
                    # a mixture has many parameters per pixel, which move its density together
                    module.weight.mul_(0.1 if model.config.likelihood == "logistic_mixture" else 0.3)
        return model

    return make


@pytest.fixture(params=[*SMALL_KINDS, *LARGER_KINDS], ids="-".join)
def small_model(request: pytest.FixtureRequest, small: Build) -> LatentModel:
    model, prior, likelihood = request.param
    return small(model=model, prior=prior, likelihood=likelihood)


@pytest.fixture
def every_image() -> Tensor:
    return torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64).reshape(16, 1, 2, 2)


@pytest.fixture
def small_images(small_model: LatentModel, every_image: Tensor) -> Tensor:
    """Four images that the model takes, two if they are of the larger size."""
    images = every_image[[0, 5, 6, 15] if small_model.config.model in SMALL_MODELS else [5, 15]]
    if not small_model.likelihood.binary:
        images = 0.3 + 0.4 * images  # gray: black and white lie in tails that few samples reach
    tiles = small_model.config.image_shape[1] // 2
    return images.repeat(1, 1, tiles, tiles)


@pytest.mark.parametrize("small_model", SMALL_KINDS, indirect=True, ids="-".join)
def test_quadrature_has_converged(small_model: LatentModel, small_images: Tensor) -> None:
    """To a twentieth of any standard error below; clamps of the networks' outputs leave kinks, hence no more digits."""
    coarse, fine = (exact_log_likelihood(small_model, small_images[:2], refine) for refine in (1, 2))
    torch.testing.assert_close(coarse, fine, rtol=0.0, atol=5e-4)


def test_the_estimate_agrees_with_quadrature_within_its_error(small_model: LatentModel, small_images: Tensor) -> None:
    """Within four of its standard errors, and those are small enough to see a twentieth of p(x)."""
    num_samples = 16_000 if small_model.config.model in SMALL_MODELS else 2000
    estimate = log_likelihood(small_model, small_images, num_samples=num_samples)
    exact = exact_log_likelihood(small_model, small_images)
    assert estimate.standard_error.max() < 0.05
    assert ((estimate.value - exact).abs() < 4.0 * estimate.standard_error).all()
    assert (estimate.elbo < exact).all()
    assert ((estimate.effective_sample_size >= 1.0) & (estimate.effective_sample_size <= num_samples)).all()


@pytest.mark.parametrize("small_model", SMALL_KINDS, indirect=True, ids="-".join)
def test_a_refined_estimate_agrees_with_quadrature_within_its_error(
    small_model: LatentModel, small_images: Tensor
) -> None:
    estimate = log_likelihood(small_model, small_images, num_samples=8000, refine=20)
    exact = exact_log_likelihood(small_model, small_images)
    assert estimate.standard_error.max() < 0.05
    assert ((estimate.value - exact).abs() < 4.0 * estimate.standard_error).all()


@pytest.mark.parametrize("likelihood", BINARY)
@pytest.mark.parametrize("name", SMALL_MODELS)
def test_the_probabilities_of_all_images_sum_to_one(
    name: str, likelihood: str, small: Build, every_image: Tensor
) -> None:
    """Exactly by quadrature; by importance sampling within four standard errors of the sum."""
    model = small(model=name, likelihood=likelihood)
    assert float(exact_log_likelihood(model, every_image).exp().sum()) == pytest.approx(1.0, abs=1e-10)
    estimate = log_likelihood(model, every_image, num_samples=4000)
    probabilities = estimate.value.exp()
    error = float((probabilities * estimate.standard_error).square().sum().sqrt())
    assert error < 0.01
    assert abs(float(probabilities.sum()) - 1.0) < 4.0 * error


def repeat(model: LatentModel, image: Tensor, repeats: int, num_samples: int) -> LogLikelihood:
    """Independent estimates of one image's log-likelihood, each of shape (repeats,)."""
    return log_likelihood(model, image.expand(repeats, *image.shape), num_samples=num_samples)


def test_the_standard_error_is_calibrated(small: Build, every_image: Tensor) -> None:
    """The spread of n independent estimates is the standard error that they state.

    A standard deviation from n normal numbers has the relative error 1 / sqrt(2 n); five of those are allowed, and the
    delta method's own error, which is of the order of 1 / effective sample size, twice.
    """
    repeats = 1000
    estimates = repeat(small(), every_image[5], repeats, num_samples=200)
    stated = float(estimates.standard_error.square().mean().sqrt())
    allowed = 5.0 / math.sqrt(2 * repeats) + 2.0 / float(estimates.effective_sample_size.mean())
    assert float(estimates.value.std()) == pytest.approx(stated, rel=allowed)


def test_more_samples_tighten_the_bound(small: Build, every_image: Tensor) -> None:
    """Burda et al. (2015), Theorem 1: L_1 <= L_5 <= L_50 <= log p(x) in expectation."""
    model, image, repeats = small(), every_image[5], 3000
    means, errors = [], []
    for num_samples in (1, 5, 50):
        values = repeat(model, image, repeats, num_samples).value
        means.append(float(values.mean()))
        errors.append(float(values.std()) / math.sqrt(repeats))
    exact = float(exact_log_likelihood(model, image.unsqueeze(0)))
    assert means[1] - means[0] > 4.0 * math.hypot(errors[0], errors[1])
    assert means[2] - means[1] > 4.0 * math.hypot(errors[1], errors[2])
    assert exact - means[2] > -4.0 * errors[2]


def test_float32_scores_like_float64(tiny_config: Callable[..., ModelConfig], every_image: Tensor) -> None:
    """With the same noise; float32 carries seven digits of log-densities below ten, through three small layers."""
    single = build_model(tiny_config(**SMALL))
    double = build_model(tiny_config(**SMALL)).double()
    double.load_state_dict(single.state_dict())
    noise = torch.randn(16, 200, single.noise_dim)
    low = log_likelihood(single, every_image.float(), num_samples=200, noise=noise)
    high = log_likelihood(double, every_image, num_samples=200, noise=noise.double())
    torch.testing.assert_close(low.value, high.value, rtol=0.0, atol=1e-4)
