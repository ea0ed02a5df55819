"""Distributions of the latents: diagonal normals and their mixtures, with log-densities in nats."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vampprior.precision import accurate_linear

__all__ = ["LOG_VAR_MAX", "LOG_VAR_MIN", "DiagonalNormal", "Mixture"]

LOG_2PI = math.log(2.0 * math.pi)
EXP_BOUND = 80.0
"""Greatest x for which exp(-x) is a normal float32 number; arithmetic with denormal ones is 20 times slower."""
LOG_VAR_MIN, LOG_VAR_MAX = -6.0, 2.0
"""Bounds of every log-variance that a network or a prior's parameter gives."""


class DiagonalNormal(NamedTuple):
    r"""Normal distribution with a diagonal covariance, $\mathcal{N}(\mu, \mathrm{diag}(e^{\text{log\_var}}))$.

    Args:
        mean: Mean, shape $(*, M)$.
        log_var: Logarithm of the variances, shape $(*, M)$.

    Example:
        >>> normal = DiagonalNormal(torch.zeros(3, 2), torch.zeros(3, 2))
        >>> normal.log_prob(torch.zeros(3, 2))
        tensor([-1.8379, -1.8379, -1.8379])
    """

    mean: Tensor
    log_var: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviations, shape $(*, M)$."""
        return torch.exp(0.5 * self.log_var)

    def rsample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        r"""Reparameterized draw $\mu + \text{temperature} \cdot \sigma \epsilon$ (Kingma & Welling, 2014).

        `noise` is $\epsilon \sim \mathcal{N}(0, I)$, shape $(*, M)$. [Paper](https://arxiv.org/abs/1312.6114).
        """
        return torch.addcmul(self.mean, self.std, noise, value=temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape $(*, M)$ to $(*)$."""
        quadratic = (z - self.mean).square() * torch.exp(-self.log_var)
        return -0.5 * (quadratic + self.log_var + LOG_2PI).sum(-1)

    def log_prob_of_sample(self, noise: Tensor) -> Tensor:
        """Log-density of `rsample(noise)`, shape $(*, M)$ to $(*)$, without the rounding error of z - mean."""
        return -0.5 * (noise.square().sum(-1) + (self.log_var + LOG_2PI).sum(-1))

    def kl_divergence(self, other: DiagonalNormal) -> Tensor:
        """KL(self || other) in nats, shape $(*)$."""
        log_ratio = self.log_var - other.log_var
        distance = (self.mean - other.mean).square() * torch.exp(-other.log_var)
        return 0.5 * (torch.exp(log_ratio) + distance - 1.0 - log_ratio).sum(-1)


class Mixture(NamedTuple):
    r"""Mixture of diagonal normals, $\sum_k w_k \mathcal{N}(\mu_k, \mathrm{diag}(\sigma_k^2))$.

    Every prior of the paper has this form once its parameters are fixed (Eq. 9 and 16 of
    [Tomczak & Welling, 2018](https://arxiv.org/abs/1705.07120)).

    Args:
        mean: Means of the components, shape $(K, M)$.
        log_var: Logarithms of their variances, shape $(K, M)$.
        log_weights: $\log w_k$, shape $(K)$; the weights sum to 1.

    Example:
        >>> mixture = Mixture(torch.tensor([[-3.0], [3.0]]), torch.zeros(2, 1), torch.tensor([0.25, 0.75]).log())
        >>> mixture.responsibilities(torch.tensor([[0.0]]))
        tensor([[0.2500, 0.7500]])
        >>> mixture.sample_index(torch.tensor([0.2, 0.3]))
        tensor([0, 1])
    """

    mean: Tensor
    log_var: Tensor
    log_weights: Tensor

    def component_log_probs(self, z: Tensor) -> Tensor:
        r"""$\log w_k + \log \mathcal{N}(z; \mu_k, \sigma_k^2)$ of every component, shape $(*, M)$ to $(*, K)$.

        The square is multiplied out, so that one matrix product of $[z^2, z]$ with $[-\sigma_k^{-2} / 2,
        \mu_k \sigma_k^{-2}]$ suffices and no tensor of shape $(*, K, M)$ is built.
        """
        precision = torch.exp(-self.log_var)
        weight = torch.cat([-0.5 * precision, self.mean * precision], dim=-1)
        constant = self.log_weights - 0.5 * (self.mean.square() * precision + self.log_var + LOG_2PI).sum(-1)
        return accurate_linear(torch.cat([z.square(), z], dim=-1), weight, constant)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape $(*, M)$ to $(*)$."""
        log_probs = self.component_log_probs(z)
        greatest = log_probs.detach().amax(-1, keepdim=True)
        # below the bound a component adds nothing to a sum of 1 or more
        shares = (log_probs - greatest).clamp_(min=-EXP_BOUND).exp_()
        return shares.sum(-1).log_() + greatest.squeeze(-1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Posterior probability of each component given z, shape $(*, M)$ to $(*, K)$."""
        return torch.softmax(self.component_log_probs(z), dim=-1)

    @property
    def components(self) -> DiagonalNormal:
        """The normals of all components, over $(K, M)$."""
        return DiagonalNormal(self.mean, self.log_var)

    def component(self, index: Tensor) -> DiagonalNormal:
        """The normals with these indices, shape $(*)$ to normals over $(*, M)$."""
        return DiagonalNormal(self.mean[index], self.log_var[index])

    def sample_index(self, uniform: Tensor) -> Tensor:
        """Component indices drawn by inverting the cumulative weights at `uniform` in [0, 1), shape $(*)$ to $(*)$."""
        edges = self.log_weights.double().exp().cumsum(0)
        index = torch.searchsorted(edges, uniform.double() * edges[-1], right=True)
        return index.clamp_(max=len(edges) - 1)
