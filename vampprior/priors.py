"""Priors over the top latent; each gives a `Mixture`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from vampprior.config import ModelConfig
from vampprior.distributions import LOG_VAR_MAX, LOG_VAR_MIN, DiagonalNormal, Mixture
from vampprior.layers import init_normal_

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
"""Posterior of the top latent: images $(N, C, H, W)$ to normals over $(N, M)$."""


class Prior(nn.Module, ABC):
    """Prior over the top latent, which has `latent_dim` units.

    Args:
        config: The model's configuration; `num_components` is the number K of components.
        latent_dim: Units M of the top latent.
    """

    learns_pseudo_inputs: ClassVar[bool] = False
    """True if the pseudo-inputs are parameters; otherwise, if there are any, they are training images."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim

    @abstractmethod
    def mixture(self, encoder: Encoder) -> Mixture:
        """The prior as a mixture of K components; `encoder` is the model's posterior of the top latent."""

    @property
    def pseudo_inputs(self) -> Tensor | None:
        """Images $(K, C, H, W)$ in [0, 1], one per component; None if the prior has no pseudo-inputs."""
        return None

    def init_pseudo_inputs(self, images: Tensor) -> None:
        """Set the pseudo-inputs to images $(K, C, H, W)$; does nothing if the prior has none."""

    def pseudo_input_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that `pseudo_inputs` depends on; none unless `learns_pseudo_inputs`.

        Raises:
            NotImplementedError: If a subclass learns pseudo-inputs without defining this method.
        """
        if self.learns_pseudo_inputs:
            raise NotImplementedError(f"{type(self).__name__} learns pseudo-inputs and must give their parameters")
        return iter(())


class StandardNormal(Prior):
    r"""The standard normal $\mathcal{N}(0, I)$, a mixture of one component.

    Example:
        >>> prior = StandardNormal(ModelConfig(), latent_dim=2)
        >>> prior.mixture(encoder=None).log_prob(torch.zeros(1, 2))  # -log(2 pi)
        tensor([-1.8379])
    """

    zero: Tensor

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.register_buffer("zero", torch.zeros(1, latent_dim), persistent=False)

    def mixture(self, encoder: Encoder) -> Mixture:  # noqa: ARG002
        return Mixture(self.zero, self.zero, self.zero[:, 0])


class MixtureOfGaussians(Prior):
    r"""Mixture $\frac{1}{K} \sum_k \mathcal{N}(\mu_k, \mathrm{diag}(\sigma_k^2))$ with trained means and variances.

    Log-variances are clamped to [-6, 2].
    """

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.mean = nn.Parameter(init_normal_(torch.empty(config.num_components, latent_dim), 0.0, 1.0))
        self.log_var = nn.Parameter(torch.zeros(config.num_components, latent_dim))

    def mixture(self, encoder: Encoder) -> Mixture:  # noqa: ARG002
        return Mixture(self.mean, self.log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX), _uniform(self.mean))


class VampPrior(Prior):
    r"""Variational mixture of posteriors, $\frac{1}{K} \sum_k q(z \mid u_k)$ (Eq. 9), with learned pseudo-inputs $u_k$.

    Pseudo-inputs are free parameters clamped to [0, 1], which start at draws from N(0.5, 0.1^2).

    References:
        | VAE with a VampPrior (Tomczak & Welling, 2018)
        | https://arxiv.org/abs/1705.07120

    Example:
        >>> config = ModelConfig(image_shape=(1, 4, 4), num_components=7)
        >>> VampPrior(config, latent_dim=2).pseudo_inputs.shape
        torch.Size([7, 1, 4, 4])
    """

    learns_pseudo_inputs = True

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.free_inputs = nn.Parameter(init_normal_(torch.empty(config.num_components, *config.image_shape), 0.5, 0.1))

    @property
    def pseudo_inputs(self) -> Tensor:
        return self.free_inputs.clamp(0.0, 1.0)

    def mixture(self, encoder: Encoder) -> Mixture:
        mean, log_var = encoder(self.pseudo_inputs)
        return Mixture(mean, log_var, self.log_weights(mean))

    def log_weights(self, mean: Tensor) -> Tensor:
        r"""$\log w_k$, shape $(K)$, for components with these means."""
        return _uniform(mean)

    @torch.no_grad()
    def init_pseudo_inputs(self, images: Tensor) -> None:
        self.free_inputs.copy_(images)

    def pseudo_input_parameters(self) -> Iterator[nn.Parameter]:
        yield self.free_inputs


class WeightedVampPrior(VampPrior):
    r"""VampPrior with learned weights, $\sum_k w_k q(z \mid u_k)$, the softmax of free parameters (Eq. 16)."""

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.logits = nn.Parameter(torch.zeros(config.num_components))

    def log_weights(self, mean: Tensor) -> Tensor:  # noqa: ARG002
        return torch.log_softmax(self.logits, dim=0)


class DataVampPrior(Prior):
    r"""Mixture $\frac{1}{K} \sum_k q(z \mid x_k)$ over a fixed random subset of the training images (Sec. 4)."""

    images: Tensor

    def __init__(self, config: ModelConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.register_buffer("images", torch.zeros(config.num_components, *config.image_shape))

    @property
    def pseudo_inputs(self) -> Tensor:
        return self.images

    def mixture(self, encoder: Encoder) -> Mixture:
        mean, log_var = encoder(self.images)
        return Mixture(mean, log_var, _uniform(mean))

    def init_pseudo_inputs(self, images: Tensor) -> None:
        self.images.copy_(images)


def _uniform(mean: Tensor) -> Tensor:
    """log 1/K for each of the K rows."""
    return torch.log_softmax(mean.new_zeros(len(mean)), dim=0)


PRIORS: dict[str, type[Prior]] = {
    "standard": StandardNormal,
    "mog": MixtureOfGaussians,
    "vampprior": VampPrior,
    "weighted_vampprior": WeightedVampPrior,
    "vampprior_data": DataVampPrior,
}
"""Priors by the name that `ModelConfig.prior` takes."""
