"""Images that a model makes: from its prior, from one component of it, and from other images."""

from __future__ import annotations

import torch
from torch import Tensor

from vampprior.card import CheckpointError
from vampprior.models import LatentModel

__all__ = ["pseudo_inputs_of", "reconstruct", "sample"]


def sample(model: LatentModel, n: int, seed: int, component: int | None = None) -> Tensor:
    """Images (n, C, H, W) from the prior, or from one of its components."""
    return model.sample(n, component, generator=torch.Generator().manual_seed(seed))


def reconstruct(model: LatentModel, x: Tensor, seed: int) -> Tensor:
    """Images (N, C, H, W) encoded and decoded at the posterior means."""
    return model.reconstruct(x, torch.Generator().manual_seed(seed))


def pseudo_inputs_of(model: LatentModel) -> Tensor:
    """The pseudo-inputs (K, C, H, W), each stretched to full brightness; raises `CheckpointError` if there are none."""
    inputs = model.prior.pseudo_inputs
    if inputs is None:
        raise CheckpointError(
            f"the prior {model.config.prior} has no pseudo-inputs to show; take a VampPrior's checkpoint"
        )
    return inputs / inputs.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
