"""The log-likelihood estimate as it is commonly written, the paper's own public code included.

An image is tiled to a chunk of rows, and each row goes through the whole network as if it were another image; in each
chunk the pseudo-inputs go through the encoder anew; and the prior compares every draw with every component in a tensor
of S x K x M numbers. The networks and their weights are those of the library, its densities are not used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vampprior.likelihoods import Likelihood
from vampprior.models import HVAE
from vampprior.pixelcnn import PixelCNNDecoder

__all__ = ["log_likelihood"]


@torch.inference_mode()
def log_likelihood(model: HVAE, x: Tensor, *, num_samples: int = 5000, chunk_rows: int = 500) -> Tensor:
    """Estimate log p(x) of each image in nats, (N, C, H, W) -> (N,), for binary images and a VampPrior.

    `num_samples` is rounded down to whole chunks.
    """
    return torch.stack([_one_image(model, image, num_samples // chunk_rows, chunk_rows) for image in x])


def _one_image(model: HVAE, image: Tensor, chunks: int, chunk_rows: int) -> Tensor:
    rows = image.expand(chunk_rows, *image.shape)
    log_weights = torch.cat([_log_weights(model, rows) for _ in range(chunks)])
    return torch.logsumexp(log_weights.double(), dim=0) - math.log(len(log_weights))


def _log_weights(model: HVAE, x: Tensor) -> Tensor:
    """log p(x, z) / q(z | x) for one draw of z1 and z2 per row of x."""
    q_z2 = model.q_z2(x)
    z2 = _draw(*q_z2)
    q_z1 = model.q_z1(model.q_z1.image_half(x), z2)
    z1 = _draw(*q_z1)
    log_p = _log_bernoulli(x, model.p_x(z2, z1)) + _log_normal(z1, *model.p_z1(z2)) + _log_prior(model, z2)
    return log_p - _log_normal(z1, *q_z1) - _log_normal(z2, *q_z2)


def _log_prior(model: HVAE, z2: Tensor) -> Tensor:
    pseudo_inputs = model.prior.pseudo_inputs
    assert pseudo_inputs is not None
    mean, log_var = model.q_z2(pseudo_inputs)
    return torch.logsumexp(_log_normal(z2.unsqueeze(1), mean, log_var) - math.log(len(mean)), dim=1)


def _draw(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def _log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (log_var + (z - mean) ** 2 / torch.exp(log_var) + math.log(2.0 * math.pi)).sum(-1)


def _log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    x, mean = x.flatten(1), torch.sigmoid(logits).clamp(1e-5, 1.0 - 1e-5)
    return (x * torch.log(mean) + (1.0 - x) * torch.log(1.0 - mean)).sum(-1)


@torch.no_grad()
def sample_by_full_passes(
    decoder: PixelCNNDecoder, z2: Tensor, z1: Tensor, uniform: Tensor, likelihood: Likelihood
) -> Tensor:
    """Draw images as `PixelCNNDecoder.sample` does, with a whole forward pass per pixel."""
    x = torch.zeros_like(uniform)
    for pixel in range(uniform.shape[1]):
        params = decoder(z2, z1, x.reshape(-1, *decoder.image_shape))
        x[:, pixel] = likelihood.sample(params, uniform, channels=1)[:, pixel]
    return x
