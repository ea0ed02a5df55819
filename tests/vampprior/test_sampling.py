"""What a user of a model calls: sample, reconstruct, encode, and training of the posterior alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vampprior import LatentModel, ModelConfig

Build = Callable[..., LatentModel]


def test_a_generator_gives_the_images_of_its_numbers(model: LatentModel, config: ModelConfig) -> None:
    """Noise, then components, then pixels, so that images can be repeated from a seed."""
    images = model.sample(5, generator=torch.Generator().manual_seed(3))
    assert images.shape == (5, *config.image_shape)
    assert images.min() >= 0.0
    assert images.max() <= 1.0
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(5, model.noise_dim, generator=generator, dtype=torch.float64)
    mixture = model.prior_mixture()
    components = mixture.sample_index(torch.rand(5, generator=generator, dtype=torch.float64))
    latents = model.ancestral_sample(mixture.component(components), noise)
    if model.autoregressive:
        uniform = torch.rand(5, config.num_pixels, generator=generator, dtype=torch.float64)
        assert torch.equal(images, model.draw_image(latents, uniform))
    else:
        assert torch.equal(images, model.mean_image(latents))


def test_a_component_is_a_number_or_numbers(model: LatentModel) -> None:
    noise, pixels = torch.randn(2, 3, model.noise_dim).double(), torch.rand(3, model.config.num_pixels).double()
    last = len(model.prior_mixture().mean) - 1
    one = model.sample(component=last, noise=noise[0], pixel_noise=pixels)
    assert torch.equal(one, model.sample(component=torch.full((3,), last), noise=noise[0], pixel_noise=pixels))
    for outside in (-1, last + 1):
        with pytest.raises(IndexError, match=f"component {outside} is not between 0 and {last}"):
            model.sample(component=outside)


def test_components_get_noise_of_their_own(model: LatentModel) -> None:
    """One image per component, each from a row of noise of its own."""
    components = torch.zeros(4, dtype=torch.long)
    latents = model.sample_latents(component=components, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(4, model.noise_dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for z, expected in zip(latents, model.sample_latents(component=0, noise=noise), strict=True):
        assert torch.equal(z, expected)
        assert len(torch.unique(z, dim=0)) == 4
    assert model.sample(component=components).shape[0] == 4
    assert model.sample().shape[0] == 1


@pytest.mark.parametrize("n", [None, 3])
def test_arguments_that_disagree_on_the_number_of_images_are_refused(model: LatentModel, n: int | None) -> None:
    components, noise = torch.zeros(3, dtype=torch.long), torch.zeros(2, model.noise_dim).double()
    with pytest.raises(ValueError, match=r"disagree: \[2, 3\]"):
        model.sample(n, component=components, noise=noise)
    with pytest.raises(ValueError, match="disagree"):
        model.sample(1, component=components)
    with pytest.raises(ValueError, match="disagree"):
        model.sample(1, noise=noise)


def test_temperature_scales_the_noise_of_the_latents(model: LatentModel) -> None:
    noise = torch.randn(4, model.noise_dim).double()
    warm = model.sample_latents(component=0, temperature=0.5, noise=noise)
    for z, halved in zip(warm, model.sample_latents(component=0, noise=0.5 * noise), strict=True):
        torch.testing.assert_close(z, halved)
    assert [z.shape[1] for z in warm] == list(model.latent_dims.values())


def test_pixels_are_drawn_where_their_noise_is_given(model: LatentModel, config: ModelConfig) -> None:
    uniform = torch.rand(6, config.num_pixels).double()
    noise = torch.randn(6, model.noise_dim).double()
    drawn = model.sample(component=0, noise=noise, pixel_noise=uniform)
    assert torch.equal(drawn, model.draw_image(model.sample_latents(component=0, noise=noise), uniform))
    if config.likelihood == "bernoulli":
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_a_reconstruction_is_decoded_at_the_means(model: LatentModel, images: Tensor, config: ModelConfig) -> None:
    uniform = torch.rand(3, config.num_pixels).double()
    means = tuple(posterior.mean for posterior in model.encode(images).values())
    drawn = model.reconstruct(images, pixel_noise=uniform)
    torch.testing.assert_close(drawn, model.draw_image(means, uniform))
    if not model.autoregressive:
        torch.testing.assert_close(model.reconstruct(images), model.mean_image(means))
        noise = torch.randn(3, model.noise_dim).double()
        latents = model.rsample(model.condition(images), noise).latents
        torch.testing.assert_close(model.reconstruct(images, noise=noise), model.mean_image(latents))


def test_a_bound_of_several_draws_is_the_log_mean_weight(model: LatentModel, images: Tensor) -> None:
    noise = torch.randn(3, 4, model.noise_dim).double()
    bound = model(images, noise, kl_weight=0.5)
    each = [model.elbo(images, noise=noise[:, draw], kl_weight=0.5) for draw in range(4)]
    for name in ("value", "bound"):
        draws = torch.stack([getattr(one, name) for one in each])
        largest = draws.max(0).values  # keeps the weights of large images above zero
        torch.testing.assert_close(getattr(bound, name), largest + (draws - largest).exp().mean(0).log())
    torch.testing.assert_close(bound.kl, torch.stack([one.kl for one in each]).mean(0))


def test_the_posteriors_parameters_are_those_that_change_it(model: LatentModel, images: Tensor) -> None:
    """They get a gradient from log q(z | x) of given latents, and no other parameter does."""
    latents = tuple(z.detach() for z in model.rsample(model.condition(images), torch.randn(3, model.noise_dim)).latents)
    model.log_q(images, latents).sum().backward()
    named = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    chosen = {id(parameter) for parameter in model.posterior_parameters()}
    assert named == {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def test_training_the_posterior_leaves_the_rest_in_evaluation_mode(model: LatentModel) -> None:
    assert model.train().train_posterior() is model
    inside = {id(child) for module in model.posterior_modules() for child in module.modules()}
    for module in model.modules():
        assert module.training is (id(module) in inside)
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
