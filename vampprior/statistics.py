"""Statistics of images under a model, from which their novelty is judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vampprior.distributions import DiagonalNormal, Mixture
from vampprior.importance import MAX_BYTES, LogLikelihood, chunk_rows
from vampprior.latent_model import LatentModel, draw_random
from vampprior.novelty import NUM_SAMPLES, Statistics

__all__ = ["image_statistics", "total_variation"]


@torch.inference_mode()
def image_statistics(
    model: LatentModel,
    x: Tensor,
    *,
    num_samples: int = NUM_SAMPLES,
    noise: Tensor | None = None,
    mixture: Mixture | None = None,
    generator: torch.Generator | None = None,
    max_bytes: int = MAX_BYTES,
) -> Statistics:
    r"""Statistics of images $(N, C, H, W)$ from S draws of the latents per image.

    Equal noise gives equal statistics. The KL is given per layer: of the top layer alone, and of the layers below it
    given those above.

    Args:
        model: The model.
        x: Images $(N, C, H, W)$ on the model's device, with pixels as the likelihood takes them.
        num_samples: Draws S of the latents per image.
        noise: Standard-normal noise of shape $(N, S, noise\_dim)$, in place of a generator.
        mixture: Prior from `model.prior_mixture()`; computed if None.
        generator: Source of the noise, which is drawn image by image; by default torch's global one.
        max_bytes: Memory of the largest tensor, which limits the draws that pass through the networks at once.

    Raises:
        ValueError: If `num_samples` is not positive.

    Example:
        >>> from vampprior import ModelConfig, build_model
        >>> model = build_model(ModelConfig(image_shape=(1, 8, 8), num_components=5)).eval()
        >>> statistics = image_statistics(model, torch.zeros(3, 1, 8, 8), num_samples=4)
        >>> statistics.elbo.shape, sorted(statistics.kl), statistics.total_variation.tolist()
        ((3,), ['z1', 'z2'], [0.0, 0.0, 0.0])
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be positive, not {num_samples}")
    mixture = model.prior_mixture() if mixture is None else mixture
    rows = chunk_rows(model, max_bytes)
    per_batch = max(1, rows // num_samples)
    parts = [_empty(model)]
    for start in range(0, len(x), per_batch):
        images = x[start : start + per_batch]
        if noise is None:
            shape = (num_samples, model.noise_dim)
            drawn = torch.stack([draw_random(torch.randn, shape, image, generator) for image in images])
        else:
            drawn = noise[start : start + per_batch]
        parts.append(_statistics(model, images, torch.split(drawn, rows, dim=1), mixture))
    return Statistics.concatenate(parts)


def _statistics(model: LatentModel, x: Tensor, noise: Sequence[Tensor], mixture: Mixture) -> Statistics:
    """Statistics of images, given their noise in chunks along the draws."""
    context = tuple(part.unsqueeze(1) for part in model.condition(x))
    top = DiagonalNormal(*(part.unsqueeze(1) for part in next(iter(model.encode(x).values()))))
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk in noise:
        latents, log_q = model.rsample(context, chunk)
        log_px, kl = model.log_px(x.unsqueeze(1), latents), log_q - model.log_p(latents, mixture)
        columns.append((log_px, kl, top.log_prob(latents[0]) - mixture.log_prob(latents[0])))
    log_px, kl, top_kl = (torch.cat(parts, dim=1).to("cpu", torch.float64) for parts in zip(*columns, strict=True))
    score = LogLikelihood.from_samples(log_px, kl)
    kl_per_layer = [top_kl.mean(1), (kl - top_kl).mean(1)]
    return Statistics(
        elbo=score.elbo.numpy(),
        reconstruction=score.reconstruction.numpy(),
        log_likelihood=score.value.numpy(),
        total_variation=total_variation(x).numpy(),
        kl={layer: column.numpy() for layer, column in zip(_kl_layers(model), kl_per_layer, strict=False)},
    )


def _kl_layers(model: LatentModel) -> list[str]:
    """The top layer and, if there are any, the layers below it under one name."""
    top, *below = model.latent_dims
    return [top, *(["-".join(below)] if below else [])]


def _empty(model: LatentModel) -> Statistics:
    none = np.empty(0)
    return Statistics(none, none, none, none, dict.fromkeys(_kl_layers(model), none))


def total_variation(x: Tensor) -> Tensor:
    """Sum of absolute differences between neighbouring pixels, $(N, C, H, W)$ to $(N)$, in float64 on the CPU.

    Example:
        >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]]))
        tensor([2.], dtype=torch.float64)
    """
    x = x.to("cpu", torch.float64)
    return x.diff(dim=-1).abs().sum((1, 2, 3)) + x.diff(dim=-2).abs().sum((1, 2, 3))
