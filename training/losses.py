"""Losses of the two training phases: `Wake` for training images, `Sleep` for images that a model generates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import torch
from torch import Tensor

from training.augmentation import Change, augment
from training.data import Dataset
from vampprior.distributions import Mixture
from vampprior.latent_model import Bound, LatentModel, Latents
from vampprior.precision import no_autocast

__all__ = ["Phase", "Sleep", "Wake"]

PRIOR_WEIGHT = 10.0
"""Weight of the KL term that keeps the prior fixed; chosen by hand."""


class Phase(Protocol):
    """A source of batches and the bound that is optimized on them."""

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """The batch of a step, with as many images as there are elements in `indices`, which number training images."""

    def bound(self, model: LatentModel, batch: Any, kl_weight: Tensor) -> Bound:
        """The bound per image; the mean of its `value` is maximized."""


class Wake:
    """Training images, and a lower bound of their log-likelihood (Eq. 2-3; Burda et al., 2016, Eq. 8).

    draws:   latent samples per image
    changes: random changes of the images of each batch
    mixture: the prior, if it does not learn; otherwise None, and every step computes it
    """

    def __init__(
        self,
        model: LatentModel,
        dataset: Dataset,
        draws: int,
        device: torch.device,
        changes: Collection[Change] = (),
    ) -> None:
        self.changes = changes
        self.images = torch.from_numpy(dataset.gray("train")).to(device)
        self.dynamic, self.draws = dataset.dynamic, draws
        self.noise_dim, self.likelihood = model.noise_dim, model.likelihood
        self.mixture: Mixture | None = None

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and noise (N, draws, noise_dim)."""
        x = self._see(augment(self.images[indices], self.changes, generator), generator)
        return x, torch.randn((len(x), self.draws, self.noise_dim), generator=generator, device=generator.device)

    def view(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Training images (N, C, H, W) as the model sees them at one visit, unchanged: dynamic ones are binarized."""
        return self._see(self.images[indices], generator)

    def _see(self, gray: Tensor, generator: torch.Generator) -> Tensor:
        if not self.dynamic:
            return self.likelihood.from_bytes(gray)
        uniform = torch.rand(gray.shape, generator=generator, device=generator.device)
        return (255.0 * uniform < gray).to(uniform.dtype)

    def bound(self, model: LatentModel, batch: tuple[Tensor, Tensor], kl_weight: Tensor) -> Bound:
        """The lower bound of log p(x), with the weighted KL in `value`."""
        x, noise = batch
        return model(x, noise=noise, kl_weight=kl_weight, mixture=self.mixture)


class Sleep:
    """Images that a fixed model generates, and the fit of q(z | x) to their latents (Hinton et al., 1995).

    Only the posterior and the pseudo-inputs of a VampPrior learn; the pseudo-inputs change so that the components of
    the prior can stay the same. Every batch is new, so the posterior does not overfit.

    init_model: the model at the beginning of the phase
    """

    def __init__(self, init_model: LatentModel) -> None:
        self.init_model = init_model.eval().requires_grad_(False)
        self.prior = self.init_model.prior_mixture()

    @staticmethod
    def freeze(model: LatentModel) -> None:
        """Fix all parameters except those of the posterior and the pseudo-inputs."""
        model.requires_grad_(False)
        for parameter in (*model.posterior_parameters(), *model.prior.pseudo_input_parameters()):
            parameter.requires_grad_(True)

    @torch.no_grad()
    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Latents]:
        """Generated images (N, C, H, W) and the latents that they were drawn from."""
        num_images, device, config = len(indices), generator.device, self.init_model.config
        uniform = torch.rand((num_images, 1 + config.num_pixels), generator=generator, device=device)
        noise = torch.randn((num_images, self.init_model.noise_dim), generator=generator, device=device)
        component = self.prior.sample_index(uniform[:, 0])
        latents = self.init_model.sample_latents(component=component, noise=noise, mixture=self.prior)
        return self.init_model.draw_image(latents, uniform[:, 1:]), latents

    def bound(self, model: LatentModel, batch: tuple[Tensor, Latents], kl_weight: Tensor) -> Bound:  # noqa: ARG002
        """log p(x, z) - log q(z | x), an upper bound of log p(x) in expectation, by KL(p(z | x) || q(z | x)).

        It is minimized: `value` is its negative minus `PRIOR_WEIGHT` times the KL from the original to the current
        prior components.
        """
        x, latents = batch
        kl = model.log_q(x, latents) - self.init_model.log_p(latents, self.prior)
        reconstruction = self.init_model.log_px(x, latents)
        bound = reconstruction - kl
        with no_autocast(x):  # where variances are small, rounding to bfloat16 changes the KL by many nats
            change = self.prior.components.kl_divergence(model.prior_mixture().components).mean()
        return Bound(-bound - PRIOR_WEIGHT * change, bound, reconstruction, kl)
