"""Priors over the top latent. Each one, whatever its parameters, gives a `Mixture`: that is all a model asks of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import DiagonalNormal, Mixture

__all__ = ["PRIORS", "Encoder", "Prior", "StandardNormal", "VampPrior"]

Encoder = Callable[[Tensor], DiagonalNormal]
"""The variational posterior of the top latent: images (N, C, H, W) -> normals over (N, M)."""


class Prior(nn.Module, ABC):
    """A prior over the top latent, of dimension M = `latent_dim`."""

    pseudo_inputs: Tensor | None = None
    """Images (K, C, H, W) in [0, 1] that stand for the components, for priors that have them."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:  # noqa: ARG002
        super().__init__()

    @abstractmethod
    def mixture(self, encoder: Encoder) -> Mixture:
        """The prior as a mixture; `encoder` is the model's own posterior of the top latent."""


class StandardNormal(Prior):
    """N(0, I): a mixture of one component."""

    zero: Tensor

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.register_buffer("zero", torch.zeros(1, latent_dim), persistent=False)

    def mixture(self, encoder: Encoder) -> Mixture:  # noqa: ARG002
        return Mixture(self.zero, self.zero, self.zero[:, 0])


class VampPrior(Prior):
    """1/K sum_k q(z | u_k) with learned pseudo-inputs u_k (Eq. 9 and 12).

    The free parameters pass through a clamp to [0, 1]. They start at N(0.5, 0.1); training sets a start of its own.
    """

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.free_inputs = nn.Parameter(0.5 + 0.1 * torch.randn(config.num_components, *config.image_shape))

    @property
    def pseudo_inputs(self) -> Tensor:  # type: ignore[override]
        return self.free_inputs.clamp(0.0, 1.0)

    def mixture(self, encoder: Encoder) -> Mixture:
        mean, log_var = encoder(self.pseudo_inputs)
        return Mixture(mean, log_var, torch.log_softmax(mean.new_zeros(len(mean)), dim=0))


PRIORS: dict[str, type[Prior]] = {"standard": StandardNormal, "vampprior": VampPrior}
