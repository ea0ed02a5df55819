"""Priors are the mixtures the paper writes, and their gradients are those of its supplement."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vampprior import PRIORS, DiagonalNormal, Mixture, ModelConfig, Prior
from vampprior.networks.mlp import DenseEncoder
from vampprior.priors import DataVampPrior, MixtureOfGaussians, StandardNormal, VampPrior, WeightedVampPrior

Noise = Callable[..., Tensor]
LATENT_DIM = 2


@pytest.fixture(params=sorted(PRIORS))
def prior(request: pytest.FixtureRequest, tiny_config: Callable[..., ModelConfig]) -> Prior:
    return PRIORS[request.param](tiny_config(), LATENT_DIM).double()


@pytest.fixture
def encoder(tiny_config: Callable[..., ModelConfig]) -> DenseEncoder:
    return DenseEncoder(tiny_config(), LATENT_DIM).double()


@pytest.fixture
def vampprior(tiny_config: Callable[..., ModelConfig]) -> VampPrior:
    return VampPrior(tiny_config(), LATENT_DIM).double()


def density(encoder: nn.Module, image: Tensor, z: Tensor) -> Tensor:
    """q(z | image) by way of torch.distributions, a number for each row of z."""
    mean, log_var = encoder(image)
    return torch.distributions.Independent(torch.distributions.Normal(mean, (0.5 * log_var).exp()), 1).log_prob(z).exp()


def test_every_prior_is_a_normalized_mixture(prior: Prior, encoder: DenseEncoder) -> None:
    mixture = prior.mixture(encoder)
    components = len(mixture.mean)
    assert mixture.mean.shape == mixture.log_var.shape == (components, LATENT_DIM)
    assert mixture.log_weights.shape == (components,)
    assert mixture.log_weights.logsumexp(0).item() == pytest.approx(0.0, abs=1e-14)


def test_every_pseudo_input_is_an_image_and_has_a_component(prior: Prior, encoder: DenseEncoder) -> None:
    images = prior.pseudo_inputs
    if images is not None:
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.copy_(4.0 * torch.randn_like(parameter))
        images = prior.pseudo_inputs
        assert images.shape == (len(prior.mixture(encoder).mean), 1, 4, 4)
        assert ((images >= 0.0) & (images <= 1.0)).all()


def test_pseudo_input_parameters_are_those_that_change_the_pseudo_inputs(prior: Prior) -> None:
    chosen = {id(parameter) for parameter in prior.pseudo_input_parameters()}
    images = prior.pseudo_inputs
    if images is not None and images.requires_grad:
        images.sum().backward()
    assert {id(parameter) for parameter in prior.parameters() if parameter.grad is not None} == chosen
    assert bool(chosen) is prior.learns_pseudo_inputs


def test_a_prior_that_learns_pseudo_inputs_must_give_their_parameters(tiny_config: Callable[..., ModelConfig]) -> None:
    class Forgetful(DataVampPrior):
        learns_pseudo_inputs = True

    with pytest.raises(NotImplementedError, match="Forgetful learns pseudo-inputs"):
        Forgetful(tiny_config(), LATENT_DIM).pseudo_input_parameters()


def test_the_standard_prior_is_the_unit_normal(
    tiny_config: Callable[..., ModelConfig], encoder: DenseEncoder, draw_noise: Noise
) -> None:
    z = 3.0 * draw_noise(9, LATENT_DIM)
    prior = StandardNormal(tiny_config(), LATENT_DIM).double()
    unit = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    torch.testing.assert_close(prior.mixture(encoder).log_prob(z), unit.log_prob(z))
    assert prior.pseudo_inputs is None
    assert not prior.state_dict()


def test_the_vampprior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(
    vampprior: VampPrior, encoder: DenseEncoder, draw_noise: Noise
) -> None:
    """Eq. 9, one pseudo-input at a time."""
    z = draw_noise(9, LATENT_DIM)
    naive = sum(density(encoder, image, z) for image in vampprior.pseudo_inputs) / len(vampprior.pseudo_inputs)
    torch.testing.assert_close(vampprior.mixture(encoder).log_prob(z).exp(), naive)


def test_component_k_is_the_posterior_of_pseudo_input_k(vampprior: VampPrior, encoder: DenseEncoder) -> None:
    component = vampprior.mixture(encoder).component(torch.tensor(3))
    mean, log_var = encoder(vampprior.pseudo_inputs[3])
    torch.testing.assert_close(component.mean, mean)
    torch.testing.assert_close(component.log_var, log_var)


def test_the_weighted_vampprior_is_the_weighted_mean_of_the_posteriors(
    tiny_config: Callable[..., ModelConfig], encoder: DenseEncoder, draw_noise: Noise
) -> None:
    """Eq. 16, one pseudo-input at a time; the weights start out equal and learn."""
    prior, z = WeightedVampPrior(tiny_config(), LATENT_DIM).double(), draw_noise(9, LATENT_DIM)
    assert prior.mixture(encoder).log_weights.exp().tolist() == pytest.approx([0.2] * 5)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0, 30.0]))
    weights = torch.softmax(prior.logits, 0)
    naive = sum(w * density(encoder, image, z) for w, image in zip(weights, prior.pseudo_inputs, strict=True))
    mixture = prior.mixture(encoder)
    torch.testing.assert_close(mixture.log_prob(z).exp(), naive)
    mixture.log_prob(z).sum().backward()
    assert prior.logits.grad.abs().max() > 0.0


def test_the_mixture_of_gaussians_has_its_own_parameters(
    tiny_config: Callable[..., ModelConfig], encoder: DenseEncoder
) -> None:
    prior = MixtureOfGaussians(tiny_config(), LATENT_DIM)
    assert prior.pseudo_inputs is None
    with torch.no_grad():
        prior.log_var.copy_(torch.tensor([-9.0, -6.0, 0.0, 2.0, 9.0]).unsqueeze(1))
    mixture = prior.mixture(encoder)
    assert torch.equal(mixture.mean, prior.mean)
    assert mixture.log_var[:, 0].tolist() == [-6.0, -6.0, 0.0, 2.0, 2.0]
    assert mixture.log_weights.exp().tolist() == pytest.approx([0.2] * 5)


def test_pseudo_inputs_start_where_they_are_put(prior: Prior, encoder: DenseEncoder) -> None:
    if prior.pseudo_inputs is not None:
        images = torch.rand_like(prior.pseudo_inputs)
        prior.init_pseudo_inputs(images)
        assert torch.equal(prior.pseudo_inputs, images)
        torch.testing.assert_close(prior.mixture(encoder).mean, encoder(images).mean)


def test_data_pseudo_inputs_are_kept_but_not_learned(
    tiny_config: Callable[..., ModelConfig], encoder: DenseEncoder
) -> None:
    prior = DataVampPrior(tiny_config(), LATENT_DIM)
    assert not list(prior.parameters())
    assert list(prior.state_dict()) == ["images"]


def test_the_gradient_reaches_encoder_and_pseudo_inputs_within_the_clamp(
    vampprior: VampPrior, encoder: DenseEncoder, draw_noise: Noise
) -> None:
    with torch.no_grad():
        vampprior.free_inputs[0, 0, 0, 0] = 1.5
        vampprior.free_inputs[1, 0, 0, 0] = -0.5
    vampprior.mixture(encoder).log_prob(draw_noise(9, LATENT_DIM)).sum().backward()
    clamped = (vampprior.free_inputs < 0.0) | (vampprior.free_inputs > 1.0)
    assert clamped.sum() == 2
    assert torch.equal(vampprior.free_inputs.grad == 0.0, clamped)
    assert all(parameter.grad.abs().sum() > 0.0 for parameter in encoder.parameters())


class Supplement:
    """The pieces of Eq. 25 and 26 at reparameterized draws z of q(z | x): derivatives by phi alone and by z alone.

    phi is one weight tensor of the encoder; by_phi gives a row per draw, shape (L, numel).
    """

    def __init__(self, encoder: DenseEncoder, x: Tensor, noise: Tensor, phi: Tensor) -> None:
        self.encoder, self.phi = encoder, phi
        z = DiagonalNormal(*encoder(x)).rsample(noise)
        self.z = z.detach().requires_grad_()
        self.dz_dphi = torch.stack([torch.stack([self._grad(entry, phi) for entry in row]) for row in z])

    def by_phi(self, density: Tensor) -> Tensor:
        return torch.stack([self._grad(value, self.phi) for value in density])

    def by_z(self, density: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(density.sum(), self.z, retain_graph=True)
        return grad

    def through_z(self, by_z: Tensor) -> Tensor:
        return torch.einsum("lm,lmp->lp", by_z, self.dz_dphi)

    def _grad(self, value: Tensor, phi: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(value, phi, retain_graph=True)
        return grad.flatten()


def implemented_gradient(encoder: DenseEncoder, mixture: Mixture, x: Tensor, noise: Tensor, phi: Tensor) -> Tensor:
    """d/dphi of the mean over draws of log p(z) - log q(z | x), with everything differentiated at once."""
    posterior = DiagonalNormal(*encoder(x))
    z = posterior.rsample(noise)
    (grad,) = torch.autograd.grad((mixture.log_prob(z) - posterior.log_prob(z)).mean(), phi)
    return grad.flatten()


@pytest.fixture(params=["head.linear.weight", "head.linear.bias", "hidden.0.linear.weight"])
def phi(request: pytest.FixtureRequest, encoder: DenseEncoder) -> Tensor:
    return encoder.get_parameter(request.param)


def test_the_gradient_of_the_vampprior_term_is_that_of_the_supplement(
    vampprior: VampPrior, encoder: DenseEncoder, phi: Tensor, draw_noise: Noise
) -> None:
    """Eq. 25, the gradient by an encoder weight of log 1/K sum_k q(z | u_k) - log q(z | x) at reparameterized z.

    The one-line forms of it, Eq. 20-21, leave out the factor 1 / (1/K sum_k q(z | u_k) q(z | x)) that stands before the
    sum in Eq. 25. It is Eq. 25 that follows from Eq. 22, and Eq. 25 that is tested here.
    """
    x, noise = torch.rand(1, 4, 4, dtype=torch.float64), draw_noise(4, LATENT_DIM)
    pieces = Supplement(encoder, x, noise, phi)
    inputs = vampprior.pseudo_inputs.detach()

    q_x = density(encoder, x, pieces.z)
    by_phi_x, by_z_x = pieces.by_phi(q_x), pieces.by_z(q_x)
    total, mean_q = torch.zeros_like(by_phi_x), torch.zeros_like(q_x)
    for u in inputs:
        q_u = density(encoder, u, pieces.z)
        direct = q_x[:, None] * pieces.by_phi(q_u) - q_u[:, None] * by_phi_x
        by_z = q_x[:, None] * pieces.by_z(q_u) - q_u[:, None] * by_z_x
        total += (direct + pieces.through_z(by_z)) / len(inputs)
        mean_q += q_u / len(inputs)
    right_hand_side = (total / (mean_q * q_x)[:, None]).mean(0)

    gradient = implemented_gradient(encoder, vampprior.mixture(encoder), x, noise, phi)
    assert gradient.abs().max() > 0.01
    torch.testing.assert_close(gradient, right_hand_side.detach(), rtol=1e-9, atol=1e-11)


def test_the_gradient_of_the_standard_prior_term_is_that_of_the_supplement(
    tiny_config: Callable[..., ModelConfig], encoder: DenseEncoder, phi: Tensor, draw_noise: Noise
) -> None:
    """Eq. 26, for a prior that does not depend on the encoder."""
    x, noise = torch.rand(1, 4, 4, dtype=torch.float64), draw_noise(4, LATENT_DIM)
    pieces = Supplement(encoder, x, noise, phi)
    q_x = density(encoder, x, pieces.z)
    p = (-0.5 * pieces.z.square().sum(-1)).exp() / (2.0 * math.pi)
    by_z = (q_x[:, None] * pieces.by_z(p) - p[:, None] * pieces.by_z(q_x)) / (p * q_x)[:, None]
    right_hand_side = (-pieces.by_phi(q_x) / q_x[:, None] + pieces.through_z(by_z)).mean(0)

    mixture = StandardNormal(tiny_config(), LATENT_DIM).double().mixture(encoder)
    gradient = implemented_gradient(encoder, mixture, x, noise, phi)
    assert gradient.abs().max() > 0.01
    torch.testing.assert_close(gradient, right_hand_side.detach(), rtol=1e-9, atol=1e-11)


def test_pseudo_inputs_equal_to_the_image_leave_no_gradient(
    vampprior: VampPrior, encoder: DenseEncoder, phi: Tensor, draw_noise: Noise
) -> None:
    """Every difference in Eq. 25 is zero where q(z | u_k) = q(z | x)."""
    with torch.no_grad():
        vampprior.free_inputs.copy_(vampprior.free_inputs[0].clone())
    x, noise = vampprior.pseudo_inputs[0].detach(), draw_noise(4, LATENT_DIM)
    gradient = implemented_gradient(encoder, vampprior.mixture(encoder), x, noise, phi)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-11)
