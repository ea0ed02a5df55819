"""The sleep phase (Hinton et al., 1995): the posterior learns from images whose latents are known, the model's own."""

from __future__ import annotations

import torch
from torch import Tensor

from training.objective import Objective
from vampprior.models import LatentModel, Latents
from vampprior.precision import no_autocast
from vampprior.priors import VampPrior

__all__ = ["Sleep"]

PRIOR_WEIGHT = 10.0
"""Weight of the KL term that keeps the prior fixed; chosen by hand."""


class Sleep:
    """Fits q(z | x) to the posterior of a model that stays as it is, on images that this model generates.

    There is no end of such images, so nothing is overfitted. What a VampPrior takes from the posterior, its components,
    is held to what it was.

    start: the model as it is when the phase begins
    """

    def __init__(self, start: LatentModel) -> None:
        self.start = start.eval().requires_grad_(False)
        self.prior = self.start.prior_mixture()

    @staticmethod
    def freeze(model: LatentModel) -> None:
        """Let only the posterior and the pseudo-inputs learn; pseudo-inputs follow the posterior to keep the prior."""
        model.requires_grad_(False)
        for parameter in model.posterior_parameters():
            parameter.requires_grad_(True)
        if isinstance(model.prior, VampPrior):
            model.prior.free_inputs.requires_grad_(True)

    @torch.no_grad()
    def generate(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, Latents]:
        """Images (N, C, H, W) of the model as it was, and the latents they were drawn from."""
        device, config = generator.device, self.start.config
        uniform = torch.rand((num_images, 1 + config.num_pixels), generator=generator, device=device)
        noise = torch.randn((num_images, self.start.noise_dim), generator=generator, device=device)
        component = self.prior.sample_index(uniform[:, 0])
        latents = self.start.sample_latents(component=component, noise=noise, mixture=self.prior)
        return self.start.draw_image(latents, uniform[:, 1:]), latents

    def upper_bound(self, model: LatentModel, x: Tensor, latents: Latents) -> Objective:
        """log p(x, z) - log q(z | x) at images and latents of `generate`: at the least log p(x), in expectation.

        p is the model as it was, q the posterior that learns. It is above log p(x) by the Kullback-Leibler divergence
        of the true posterior from q, and therefore minimized; with it, that of the components as they were.
        """
        kl = model.log_q(x, latents) - self.start.log_p(latents, self.prior)
        reconstruction = self.start.log_px(x, latents)
        bound = reconstruction - kl
        with no_autocast(x):  # where variances are small, the rounding of bfloat16 is a change of many nats
            change = self.prior.components.kl_divergence(model.prior_mixture().components).mean()
        return Objective(-bound - PRIOR_WEIGHT * change, bound, reconstruction, kl)
