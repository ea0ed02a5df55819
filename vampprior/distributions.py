"""Log-densities in nats: diagonal normals and their mixtures for latents, pixel distributions for images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LIKELIHOODS", "Bernoulli", "DiagonalNormal", "DiscretizedLogistic", "Likelihood", "Mixture"]

LOG_2PI = math.log(2.0 * math.pi)
EXP_BOUND = 80.0  # exp of no more than this is neither infinite nor, negated, a denormal number in float32
LOG_VAR_MIN, LOG_VAR_MAX = -6.0, 2.0  # of every latent whose variance a network or a parameter gives


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the tensor's device, for the arithmetic that reduced precision would spoil."""
    device = like.device.type
    # where there is none, as in the service, leaving it out would take longer than a small layer
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class DiagonalNormal(NamedTuple):
    """N(mean, diag(exp(log_var))) over the last dimension; both tensors have shape (*, M)."""

    mean: Tensor
    log_var: Tensor

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.log_var)

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Reparameterized draw mean + temperature * std * noise, with noise ~ N(0, I) of shape (*, M)."""
        return torch.addcmul(self.mean, self.std, noise, value=temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape (*, M) -> (*)."""
        quadratic = (z - self.mean).square() * torch.exp(-self.log_var)
        return -0.5 * (quadratic + self.log_var + LOG_2PI).sum(-1)

    def kl_divergence(self, other: DiagonalNormal) -> Tensor:
        """KL(self || other), in nats, (*)."""
        log_ratio = self.log_var - other.log_var
        distance = (self.mean - other.mean).square() * torch.exp(-other.log_var)
        return 0.5 * (torch.exp(log_ratio) + distance - 1.0 - log_ratio).sum(-1)

    def log_prob_of_sample(self, noise: Tensor) -> Tensor:
        """Log-density of `sample(noise)`, shape (*, M) -> (*): less to compute than `log_prob`, no cancelling."""
        return -0.5 * (noise.square().sum(-1) + (self.log_var + LOG_2PI).sum(-1))


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
        log_probs = self.component_log_probs(z)
        greatest = log_probs.detach().amax(-1, keepdim=True)
        # a denormal number adds nothing to a sum of 1 or more, and takes processors 20 times longer
        shares = (log_probs - greatest).clamp_(min=-EXP_BOUND).exp_()
        return shares.sum(-1).log_() + greatest.squeeze(-1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Posterior probability of each component given z, shape (*, M) -> (*, K)."""
        return torch.softmax(self.component_log_probs(z), dim=-1)

    @property
    def components(self) -> DiagonalNormal:
        """The normals of all components, over (K, M)."""
        return DiagonalNormal(self.mean, self.log_var)

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
    def from_bytes(self, gray: Tensor) -> Tensor:
        """Pixels as this distribution has them, float32 of the same shape, from 8-bit gray levels."""

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
    """Binary pixels; params are logits. Gray levels are thresholded at one half.

    log p(x) = -sum log(1 + exp(u)), with u the logit of the value that the pixel has not. By log and exp it takes half
    the time of softplus; past the bound, where exp would overflow, log(1 + exp(u)) is u to the last bit.
    """

    outputs = 1
    binary = True

    def from_bytes(self, gray: Tensor) -> Tensor:
        return (gray >= 128).float()

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        against = (1.0 - 2.0 * x.flatten(-3)) * params.to(x.dtype)
        odds = against.clamp(-EXP_BOUND, EXP_BOUND).exp_()
        return -torch.log(1.0 + odds).sum(-1) - (against - EXP_BOUND).relu_().sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        return torch.sigmoid(params)

    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < torch.sigmoid(params)).to(params.dtype)


class DiscretizedLogistic(Likelihood):
    """Gray pixels in 256 bins under a logistic distribution (Kingma et al., 2016); params are means and log-scales.

    A gray level v is the middle of its bin, x = (v + 1/2) / 256.

    The mean passes through a sigmoid and a clamp to [1/512, 1 - 1/512]; the log-scale is clamped to [-4.5, 0]. A pixel
    x lies in the bin [b, b + 1/256) with b = floor(256 x) / 256, whose probability is

        sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)),  l = (b - mean) / s, u = l + 1 / (256 s).

    The product on the right subtracts nothing that is close, so it is exact far into the tails; 1e-7 is added inside
    the logarithm.
    """

    outputs = 2
    binary = False

    def from_bytes(self, gray: Tensor) -> Tensor:
        return (gray.float() + 0.5) / 256.0

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        mean, log_scale = self._mean_and_log_scale(params.to(x.dtype))
        lower = _bin(x.flatten(-3)) / 256.0
        inverse_scale = torch.exp(-log_scale)
        left = (lower - mean) * inverse_scale
        width = inverse_scale / 256.0
        probability = torch.sigmoid(left + width) * torch.sigmoid(-left) * -torch.expm1(-width)
        return torch.log(probability + 1e-7).sum(-1)

    def mean(self, params: Tensor) -> Tensor:
        return self._mean_and_log_scale(params)[0]

    def sample(self, params: Tensor, uniform: Tensor) -> Tensor:
        mean, log_scale = self._mean_and_log_scale(params)
        # away from 0 and 1, where the inverse distribution function is infinite
        x = mean + torch.exp(log_scale) * torch.logit(uniform.to(params.dtype), eps=1e-6)
        return (_bin(x) + 0.5) / 256.0

    @staticmethod
    def _mean_and_log_scale(params: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = params.chunk(2, dim=-1)
        return torch.sigmoid(mean).clamp(1.0 / 512.0, 1.0 - 1.0 / 512.0), log_scale.clamp(-4.5, 0.0)


def _bin(x: Tensor) -> Tensor:
    """Number of the bin, 0 to 255."""
    return torch.floor(256.0 * x).clamp(0.0, 255.0)


LIKELIHOODS: dict[str, Likelihood] = {"bernoulli": Bernoulli(), "logistic": DiscretizedLogistic()}
