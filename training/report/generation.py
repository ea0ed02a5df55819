"""Images that a model makes: from its prior, from one component of it, and from other images."""

from __future__ import annotations

import torch
from torch import Tensor

from vampprior.checkpoint import CheckpointError
from vampprior.models import LatentModel, Latents

__all__ = ["pseudo_inputs_of", "reconstruct", "sample"]


@torch.inference_mode()
def sample(model: LatentModel, n: int, seed: int, component: int | None = None) -> Tensor:
    """Images (n, C, H, W) from the prior, or from one of its components: mean images, drawn ones if autoregressive."""
    generator = torch.Generator().manual_seed(seed)
    noise, mixture = torch.randn(n, model.noise_dim, generator=generator), model.prior_mixture()
    chosen = mixture.choose(torch.rand(n, generator=generator)) if component is None else torch.full((n,), component)
    latents = model.descend(mixture.component(chosen), noise)
    return _render(model, latents, generator)


@torch.inference_mode()
def reconstruct(model: LatentModel, x: Tensor, seed: int) -> Tensor:
    """Images (N, C, H, W) encoded and decoded at the posterior means; pixels are drawn if autoregressive."""
    noise = torch.zeros(len(x), model.noise_dim)
    latents = model.infer(model.condition(x), noise, model.prior_mixture()).latents
    return _render(model, latents, torch.Generator().manual_seed(seed))


def pseudo_inputs_of(model: LatentModel) -> Tensor:
    """The pseudo-inputs (K, C, H, W), each stretched to full brightness; raises `CheckpointError` if there are none."""
    inputs = model.prior.pseudo_inputs
    if inputs is None:
        raise CheckpointError(
            f"the prior {model.config.prior} has no pseudo-inputs to show; take a VampPrior's checkpoint"
        )
    return inputs / inputs.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)


def _render(model: LatentModel, latents: Latents, generator: torch.Generator) -> Tensor:
    if not model.autoregressive:
        return model.mean_image(latents)
    return model.draw_image(latents, torch.rand(len(latents[0]), model.config.num_pixels, generator=generator))
