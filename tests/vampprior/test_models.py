"""Every registered model keeps the promises of `LatentModel`; the two-layer model has the densities of Eq. 10-15."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from vampprior import DiagonalNormal, LatentModel, ModelConfig, build_model
from vampprior.models import HVAE

Noise = Callable[..., Tensor]
Build = Callable[..., LatentModel]


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 1, 4, 4, dtype=torch.float64).round()


def top_component(model: LatentModel, index: Tensor) -> DiagonalNormal:
    return model.prior_mixture().component(index)


def test_a_model_is_built_from_its_config(model: LatentModel, config: ModelConfig) -> None:
    assert model.config == config
    assert model.noise_dim == sum(model.latent_dims.values())
    again = build_model(config).double()
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", ["model", "prior", "likelihood"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, tiny_config: Callable[..., ModelConfig]) -> None:
    with pytest.raises(ValueError, match=f"unknown {name} 'nope'; known are "):
        build_model(tiny_config(**{name: "nope"}))


def test_building_a_model_leaves_the_default_dtype_alone(model: LatentModel) -> None:
    assert torch.get_default_dtype() == torch.float32
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float64}


def test_the_bound_is_reconstruction_less_weighted_kl(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise = draw_noise(len(images), model.noise_dim)
    for kl_weight in (0.0, 0.3, torch.tensor(1.0)):
        elbo = model.elbo(images, noise=noise, kl_weight=kl_weight)
        assert elbo.value.shape == elbo.reconstruction.shape == elbo.kl.shape == (len(images),)
        torch.testing.assert_close(elbo.value, elbo.reconstruction - kl_weight * elbo.kl)
        torch.testing.assert_close(elbo.bound, elbo.reconstruction - elbo.kl)
    reconstruction, kl = model.log_px_and_kl(images, model.condition(images), noise, model.prior_mixture())
    torch.testing.assert_close(elbo.reconstruction, reconstruction)
    torch.testing.assert_close(elbo.kl, kl)


def test_a_prepared_mixture_changes_nothing(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise = draw_noise(len(images), model.noise_dim)
    prepared = model.elbo(images, noise=noise, mixture=model.prior_mixture())
    assert torch.equal(prepared.value, model.elbo(images, noise=noise).value)


def test_every_parameter_gets_a_gradient_from_the_bound(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    model.train()
    model.elbo(images, noise=draw_noise(len(images), model.noise_dim)).value.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0.0, name


def test_the_gradient_of_the_bound_is_its_derivative(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    """Along one direction in the space of all parameters, against a central difference.

    Its error is of the order of step^2 = 1e-12 and of rounding over step, 1e-14 times a bound of some hundred nats over
    1e-6; a term left out of the gradient would change it by far more than a millionth.
    """
    noise, step = draw_noise(len(images), model.noise_dim), 1e-6
    parameters = list(model.parameters())
    directions = [torch.randn_like(parameter) / math.sqrt(parameter.numel()) for parameter in parameters]
    gradients = torch.autograd.grad(model.elbo(images, noise=noise).value.mean(), parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def bound_at(distance: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=distance)
            return model.elbo(images, noise=noise).value.mean().item()

    ahead, behind = bound_at(step), bound_at(-2.0 * step)
    assert slope == pytest.approx((ahead - behind) / (2.0 * step), rel=1e-6, abs=1e-6)


def test_images_of_a_batch_do_not_touch_each_other(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    """Equal up to the order of a float64 sum, which a batch of another size may change."""
    noise = draw_noise(len(images), model.noise_dim)
    latents = model.ancestral_sample(top_component(model, torch.zeros(3, dtype=torch.long)), noise)
    elbo, scores = model.elbo(images, noise=noise), model.log_px(images, latents)
    for i in range(len(images)):
        row = slice(i, i + 1)
        alone = model.elbo(images[row], noise=noise[row])
        for part, part_alone in zip(elbo, alone, strict=True):
            torch.testing.assert_close(part[row], part_alone, rtol=1e-12, atol=1e-12)
        score = model.log_px(images[row], tuple(z[row] for z in latents))
        torch.testing.assert_close(scores[row], score, rtol=1e-12, atol=1e-12)


def test_a_draw_without_noise_is_at_the_means_that_encode_gives(model: LatentModel, images: Tensor) -> None:
    posteriors = model.encode(images)
    assert list(posteriors) == list(model.latent_dims)
    assert {name: q.mean.shape[-1] for name, q in posteriors.items()} == model.latent_dims
    noise = torch.zeros(len(images), model.noise_dim, dtype=torch.float64)
    drawn = model.rsample(model.condition(images), noise)
    for z, q in zip(drawn.latents, posteriors.values(), strict=True):
        torch.testing.assert_close(z, q.mean)
    torch.testing.assert_close(drawn.log_q, sum(q.log_prob(q.mean) for q in posteriors.values()))


def test_densities_of_given_latents_are_those_of_the_draw(
    model: LatentModel, images: Tensor, draw_noise: Noise
) -> None:
    noise, mixture = draw_noise(len(images), model.noise_dim), model.prior_mixture()
    drawn = model.rsample(model.condition(images), noise)
    torch.testing.assert_close(model.log_q(images, drawn.latents), drawn.log_q)
    _, kl = model.log_px_and_kl(images, model.condition(images), noise, mixture)
    torch.testing.assert_close(drawn.log_q - model.log_p(drawn.latents, mixture), kl)


def test_the_noise_of_the_bottom_layer_comes_last(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    """With no noise above it, the bottom latent is its posterior's mean plus its standard deviation times its noise."""
    bottom, dim = list(model.encode(images).values())[-1], list(model.latent_dims.values())[-1]
    noise = torch.cat([torch.zeros(3, model.noise_dim - dim).double(), draw_noise(3, dim)], dim=-1)
    drawn = model.rsample(model.condition(images), noise)
    torch.testing.assert_close(drawn.latents[-1], bottom.rsample(noise[:, -dim:]))


def test_many_draws_share_one_image(model: LatentModel, images: Tensor, draw_noise: Noise) -> None:
    noise, mixture = draw_noise(len(images), 4, model.noise_dim), model.prior_mixture()
    context = model.condition(images)
    shared = tuple(part.unsqueeze(1) for part in context)
    together = model.log_px_and_kl(images.unsqueeze(1), shared, noise, mixture)
    for s in range(4):
        single = model.log_px_and_kl(images, context, noise[:, s], mixture)
        for part, part_single in zip(together, single, strict=True):
            torch.testing.assert_close(part[:, s], part_single)


def test_an_ancestral_sample_begins_at_its_component(model: LatentModel, draw_noise: Noise) -> None:
    """The top latent of a sample of component k is that component's reparameterized draw."""
    index = torch.tensor([0, len(model.prior_mixture().mean) - 1, 0])
    top, noise = top_component(model, index), draw_noise(3, model.noise_dim)
    latents = model.ancestral_sample(top, noise, temperature=0.7)
    widths = list(model.latent_dims.values())
    assert [z.shape for z in latents] == [(3, width) for width in widths]
    torch.testing.assert_close(latents[0], top.mean + 0.7 * top.std * noise[:, : widths[0]])


def test_a_pseudo_inputs_component_is_the_models_own_posterior_of_it(model: LatentModel) -> None:
    """Eq. 9 and 12: prior and encoder share their network."""
    images, mixture = model.prior.pseudo_inputs, model.prior_mixture()
    if images is not None:
        top = next(iter(model.encode(images).values()))
        torch.testing.assert_close(mixture.mean, top.mean)
        torch.testing.assert_close(mixture.log_var, top.log_var)


def test_temperature_zero_gives_the_means_whatever_the_noise(model: LatentModel, draw_noise: Noise) -> None:
    top, noise = top_component(model, torch.tensor([0, 0])), draw_noise(2, model.noise_dim)
    cold, still = (
        model.ancestral_sample(top, noise, temperature=0.0),
        model.ancestral_sample(top, torch.zeros_like(noise)),
    )
    assert all(torch.equal(a, b) for a, b in zip(cold, still, strict=True))
    assert torch.equal(cold[0], top.mean)


def test_drawn_images_have_the_shape_of_the_config_and_values_in_range(
    model: LatentModel, config: ModelConfig, draw_noise: Noise
) -> None:
    latents = model.ancestral_sample(
        top_component(model, torch.zeros(6, dtype=torch.long)), draw_noise(6, model.noise_dim)
    )
    uniform = torch.rand(6, config.num_pixels, dtype=torch.float64)
    drawn = model.draw_image(latents, uniform)
    assert drawn.shape == (6, *config.image_shape)
    assert ((drawn >= 0.0) & (drawn <= 1.0)).all()
    assert torch.equal(drawn, model.draw_image(latents, uniform))
    assert not torch.equal(drawn, model.draw_image(latents, 1.0 - uniform))
    if model.likelihood.binary:
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_mean_images_exist_where_pixels_are_independent(
    model: LatentModel, config: ModelConfig, draw_noise: Noise
) -> None:
    latents = model.ancestral_sample(
        top_component(model, torch.zeros(6, dtype=torch.long)), draw_noise(6, model.noise_dim)
    )
    if model.autoregressive:
        with pytest.raises(NotImplementedError, match="autoregressive"):
            model.mean_image(latents)
    else:
        mean = model.mean_image(latents)
        assert mean.shape == (6, *config.image_shape)
        assert ((mean > 0.0) & (mean < 1.0)).all()
        assert torch.equal(mean, model.mean_image(latents))


def test_each_image_is_drawn_from_its_own_row(model: LatentModel, config: ModelConfig, draw_noise: Noise) -> None:
    latents = model.ancestral_sample(top_component(model, torch.tensor([0, 0, 0])), draw_noise(3, model.noise_dim))
    uniform = torch.rand(3, config.num_pixels, dtype=torch.float64)
    drawn = model.draw_image(latents, uniform)
    for i in range(3):
        alone = model.draw_image(tuple(z[i : i + 1] for z in latents), uniform[i : i + 1])
        assert torch.equal(drawn[i : i + 1], alone)


def test_pixels_stand_in_reading_order(tiny_model: Build, draw_noise: Noise) -> None:
    model = tiny_model(image_shape=(2, 3, 4))
    latents = (draw_noise(1, 2), draw_noise(1, 3))
    flat = torch.sigmoid(model.decode(latents))
    assert torch.equal(model.mean_image(latents), flat.reshape(1, 2, 3, 4))


def normal_kl(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    as_torch = (torch.distributions.Normal(normal.mean, normal.std) for normal in (q, p))
    return torch.distributions.kl_divergence(*as_torch).sum(-1)


def hermite_noise(dim: int) -> tuple[Tensor, Tensor]:
    """Three points and weights per dimension that integrate a quadratic of standard-normal noise exactly."""
    points, weights = (torch.from_numpy(column) for column in hermegauss(3))
    grids = [torch.cartesian_prod(*[column] * dim) for column in (points, weights / weights.sum())]
    return grids[0], grids[1].prod(dim=1)


def test_the_kl_estimate_is_unbiased(tiny_model: Build, image: Tensor) -> None:
    """Its mean over the noise is KL(q(z2 | x) || N(0, I)) + E KL(q(z1 | x, z2) || p(z1 | z2)).

    Given z2, the estimate is quadratic in the noise of z1, and what the inner KL leaves of it is quadratic in the noise
    of z2: the mean is exact, up to rounding.
    """
    model = tiny_model(prior="standard")
    assert isinstance(model, HVAE)
    noise, weights = hermite_noise(model.noise_dim)
    mean, log_var, image_half = context = model.condition(image)
    (z2, z1), log_q = model.rsample(context, noise)
    log_p = model.log_p((z2, z1), model.prior_mixture())
    bottom = normal_kl(model.q_z1(image_half, z2), model.p_z1(z2))
    unit = DiagonalNormal(torch.zeros_like(mean), torch.zeros_like(mean))
    top = normal_kl(DiagonalNormal(mean, log_var), unit)
    torch.testing.assert_close((weights * (log_q - log_p - bottom)).sum(), top[0], rtol=1e-9, atol=1e-9)


def test_hvae_densities_are_those_of_the_factorization(tiny_model: Build, image: Tensor, draw_noise: Noise) -> None:
    """q(z1 | x, z2) q(z2 | x) and p(z1 | z2) p(z2) (Eq. 10-15), each factor by torch.distributions."""
    model = tiny_model()
    assert isinstance(model, HVAE)
    x = image.expand(5, 1, 4, 4)
    (z2, z1), log_q = model.rsample(model.condition(x), draw_noise(5, model.noise_dim))
    log_p = model.log_p((z2, z1), model.prior_mixture())

    def log_density(normal: DiagonalNormal, z: Tensor) -> Tensor:
        return torch.distributions.Normal(normal.mean, normal.std).log_prob(z).sum(-1)

    q_z1 = model.q_z1(model.q_z1.image_half(x), z2)
    components = [log_density(model.q_z2(u), z2) for u in model.prior.pseudo_inputs]
    p_z2 = torch.stack(components).exp().mean(0).log()
    torch.testing.assert_close(log_q, log_density(model.q_z2(x), z2) + log_density(q_z1, z1))
    torch.testing.assert_close(log_p, p_z2 + log_density(model.p_z1(z2), z1))


def test_latents_and_their_densities_stay_in_float32_under_bfloat16_autocast(
    tiny_config: Callable[..., ModelConfig],
) -> None:
    """bfloat16 has eight bits: a latent rounded to it would move by more than a narrow posterior is wide."""
    model, x = build_model(tiny_config()), torch.rand(6, 1, 4, 4).round()
    noise = torch.randn(6, model.noise_dim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = model.rsample(model.condition(x), noise)
        elbo = model.elbo(x, noise=noise)
    assert {tensor.dtype for tensor in (*drawn.latents, drawn.log_q, *elbo)} == {torch.float32}
