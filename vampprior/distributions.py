"""Log-densities in nats: diagonal normals and their mixtures for latents, pixel distributions for images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIKELIHOODS", "Bernoulli", "DiagonalNormal", "Likelihood", "Mixture"]

LOG_2PI = math.log(2.0 * math.pi)


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast on the tensor's device, for the arithmetic that reduced precision would spoil."""
    return torch.autocast(like.device.type, enabled=False)


class DiagonalNormal(NamedTuple):
    """N(mean, diag(exp(log_var))) over the last dimension; both tensors have shape (*, M)."""

    mean: Tensor
    log_var: Tensor

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.log_var)

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Reparameterized draw mean + temperature * std * noise, with noise ~ N(0, I) of shape (*, M)."""
        return self.mean + temperature * self.std * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape (*, M) -> (*)."""
        quadratic = (z - self.mean).square() * torch.exp(-self.log_var)
        return -0.5 * (quadratic + self.log_var + LOG_2PI).sum(-1)


class Mixture(NamedTuple):
    """sum_k w_k N(mean_k, diag(exp(log_var_k))), the form every prior of the paper takes once its parameters are fixed.

    mean, log_var: shape (K, M)
    log_weights:   log w_k, shape (K,), with logsumexp 0
    """

    mean: Tensor
    log_var: Tensor
    log_weights: Tensor

    def component_log_probs(self, z: Tensor) -> Tensor:
        """log w_k + log N(z; component k) by one matrix product, shape (*, M) -> (*, K).

        The square is multiplied out, so that [z^2, z] meets [-1/2 sigma_k^-2, mu_k sigma_k^-2]: no tensor of shape
        (*, K, M) is ever built.
        """
        precision = torch.exp(-self.log_var)
        weight = torch.cat([-0.5 * precision, self.mean * precision], dim=-1)
        constant = self.log_weights - 0.5 * (self.mean.square() * precision + self.log_var + LOG_2PI).sum(-1)
        with full_precision(z):
            return F.linear(torch.cat([z.square(), z], dim=-1), weight, constant)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z (Eq. 9 and 16), shape (*, M) -> (*)."""
        return torch.logsumexp(self.component_log_probs(z), dim=-1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Posterior probability of each component given z, shape (*, M) -> (*, K)."""
        return torch.softmax(self.component_log_probs(z), dim=-1)

    def component(self, index: Tensor) -> DiagonalNormal:
        """The normals of the chosen components, index (*) -> normals over (*, M)."""
        return DiagonalNormal(self.mean[index], self.log_var[index])

    def choose(self, uniform: Tensor) -> Tensor:
        """Component indices drawn with the mixture's weights by inverting their cumulative sum, (*) -> (*)."""
        edges = self.log_weights.double().exp().cumsum(0)
        index = torch.searchsorted(edges, uniform.double() * edges[-1], right=True)
        return index.clamp_(max=len(edges) - 1)


class Likelihood(ABC):
    """p(x | z): the distribution of an image's pixels given the decoder's output.

    The decoder emits `outputs` planes per image, flat in the last dimension: params has shape (*, outputs * D).
    Images have shape (*, C, H, W) and values in [0, 1].
    """

    outputs: int
    binary: bool
    """Whether pixels are 0 or 1; if not, they are gray levels and scores are also given in bits per dimension."""

    @abstractmethod
    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """Log-probability of images given params, summed over pixels: (*, C, H, W), (*, outputs * D) -> (*)."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """Expected pixel values in [0, 1], (*, outputs * D) -> (*, D)."""

    @abstractmethod
    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        """Pixels drawn by inverting the distribution function at `uniform`, shape (*, D)."""


class Bernoulli(Likelihood):
    """Binary pixels; params are logits."""

    outputs = 1
    binary = True

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        logits = params.to(x.dtype)
        return (x.flatten(-3) * logits).sum(-1) - F.softplus(logits).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params)

    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < torch.sigmoid(params)).to(params.dtype)


LIKELIHOODS: dict[str, Likelihood] = {"bernoulli": Bernoulli()}
