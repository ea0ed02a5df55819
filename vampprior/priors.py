"""Priors over the top latent. Each one, whatever its parameters, gives a `Mixture`: that is all a model asks of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import LOG_VAR_MAX, LOG_VAR_MIN, DiagonalNormal, Mixture
from vampprior.layers import draw_normal

__all__ = [
    "PRIORS",
    "DataVampPrior",
    "Encoder",
    "MixtureOfGaussians",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "WeightedVampPrior",
]

Encoder = Callable[[Tensor], DiagonalNormal]
"""The variational posterior of the top latent: images (N, C, H, W) -> normals over (N, M)."""


class Prior(nn.Module, ABC):
    """A prior over the top latent, of dimension M = `latent_dim`."""

    learns_pseudo_inputs: ClassVar[bool] = False
    """Whether `start` may be given any images; if not, and the prior has pseudo-inputs, they are training images."""

    @abstractmethod
    def mixture(self, encoder: Encoder) -> Mixture:
        """The prior as a mixture; `encoder` is the model's own posterior of the top latent."""

    @property
    def pseudo_inputs(self) -> Tensor | None:
        """Images (K, C, H, W) in [0, 1] that stand for the components, for priors that have them."""
        return None

    def start(self, images: Tensor) -> None:
        """Put the pseudo-inputs, for priors that have them, to these images (K, C, H, W)."""


class StandardNormal(Prior):
    """N(0, I): a mixture of one component."""

    zero: Tensor

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:  # noqa: ARG002
        super().__init__()
        self.register_buffer("zero", torch.zeros(1, latent_dim), persistent=False)

    def mixture(self, encoder: Encoder) -> Mixture:  # noqa: ARG002
        return Mixture(self.zero, self.zero, self.zero[:, 0])


class MixtureOfGaussians(Prior):
    """1/K sum_k N(mu_k, diag(sigma_k^2)) with trained means and variances; log-variances are clamped to [-6, 2]."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(draw_normal(torch.empty(config.num_components, latent_dim), 0.0, 1.0))
        self.log_var = nn.Parameter(torch.zeros(config.num_components, latent_dim))

    def mixture(self, encoder: Encoder) -> Mixture:  # noqa: ARG002
        return Mixture(self.mean, self.log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX), _uniform(self.mean))


class VampPrior(Prior):
    """1/K sum_k q(z | u_k) with learned pseudo-inputs u_k (Eq. 9 and 12).

    The free parameters pass through a clamp to [0, 1]. They start at N(0.5, 0.1) unless `start` says otherwise.
    """

    learns_pseudo_inputs = True

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:  # noqa: ARG002
        super().__init__()
        self.free_inputs = nn.Parameter(draw_normal(torch.empty(config.num_components, *config.image_shape), 0.5, 0.1))

    @property
    def pseudo_inputs(self) -> Tensor:
        return self.free_inputs.clamp(0.0, 1.0)

    def mixture(self, encoder: Encoder) -> Mixture:
        mean, log_var = encoder(self.pseudo_inputs)
        return Mixture(mean, log_var, self.log_weights(mean))

    def log_weights(self, like: Tensor) -> Tensor:
        """log w_k, shape (K,)."""
        return _uniform(like)

    @torch.no_grad()
    def start(self, images: Tensor) -> None:
        self.free_inputs.copy_(images)


class WeightedVampPrior(VampPrior):
    """sum_k w_k q(z | u_k) with learned weights, the softmax of free parameters (Eq. 16)."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.logits = nn.Parameter(torch.zeros(config.num_components))

    def log_weights(self, like: Tensor) -> Tensor:  # noqa: ARG002
        return torch.log_softmax(self.logits, dim=0)


class DataVampPrior(Prior):
    """1/K sum_k q(z | x_k) with a fixed random subset of the training images ("VampPrior data", Sec. 4)."""

    images: Tensor

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:  # noqa: ARG002
        super().__init__()
        self.register_buffer("images", torch.zeros(config.num_components, *config.image_shape))

    @property
    def pseudo_inputs(self) -> Tensor:
        return self.images

    def mixture(self, encoder: Encoder) -> Mixture:
        mean, log_var = encoder(self.images)
        return Mixture(mean, log_var, _uniform(mean))

    def start(self, images: Tensor) -> None:
        self.images.copy_(images)


def _uniform(like: Tensor) -> Tensor:
    """log 1/K for each of the K rows."""
    return torch.log_softmax(like.new_zeros(len(like)), dim=0)


PRIORS: dict[str, type[Prior]] = {
    "standard": StandardNormal,
    "mog": MixtureOfGaussians,
    "vampprior": VampPrior,
    "weighted_vampprior": WeightedVampPrior,
    "vampprior_data": DataVampPrior,
}
