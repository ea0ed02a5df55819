"""Importance-sampling estimate of log p(x) (Burda et al., 2016; Sec. 5.2 of the paper), and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from vampprior.distributions import Mixture
from vampprior.latent_model import Context, LatentModel, draw_random
from vampprior.refinement import DRAWS, Proposal, fit_proposal

__all__ = ["MAX_BYTES", "RELIABLE_PARETO_K", "LogLikelihood", "chunk_rows", "log_likelihood", "pareto_k"]

MAX_BYTES = 1 << 23
"""Default memory of the largest tensor, which suits a CPU; a GPU needs hundreds of MiB."""
NOISE_BLOCK = 512
"""Samples whose noise is drawn at once."""
RELIABLE_PARETO_K = 0.7
"""Estimates with k-hat of 0.7 or more are unreliable (Vehtari et al., 2024)."""


@dataclass(frozen=True)
class LogLikelihood:
    r"""Log-likelihoods in nats with what is known of their error; each tensor has shape $(N)$, in float64 on the CPU.

    With $w_s = p(x, z_s) / q(z_s \mid x)$ for S draws of z from $q(z \mid x)$:

    Args:
        value: $\log \frac{1}{S} \sum_s w_s$.
        standard_error: Delta-method standard error of `value`; much too small where `reliability` is "low". NaN for
            one sample.
        effective_sample_size: $(\sum_s w_s)^2 / \sum_s w_s^2$, between 1 and S.
        pareto_k: Shape $\hat k$ of the generalized Pareto distribution of the largest weights, see `pareto_k`.
        elbo: $\frac{1}{S} \sum_s \log w_s$, a lower bound of `value`: `reconstruction` - `kl`.
        reconstruction: Mean of $\log p(x \mid z_s)$.
        kl: Mean of $\log q(z_s \mid x) - \log p(z_s)$.
        num_samples: S.
    """

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    num_samples: int

    @classmethod
    def from_samples(cls, log_px: Tensor, kl: Tensor) -> LogLikelihood:
        r"""The estimate from $\log p(x \mid z_s)$ and $\log q(z_s \mid x) - \log p(z_s)$, both of shape $(N, S)$.

        Example:
            >>> score = LogLikelihood.from_samples(torch.tensor([[-1.0, -1.0]]), torch.tensor([[2.0, 2.0]]))
            >>> score.value, score.standard_error, score.effective_sample_size
            (tensor([-3.], dtype=torch.float64), tensor([0.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
        """
        log_px, kl = log_px.to("cpu", torch.float64), kl.to("cpu", torch.float64)
        log_weights, num_samples = log_px - kl, log_px.shape[1]
        effective = (1.0 / torch.softmax(log_weights, 1).square().sum(1)).clamp(1.0, num_samples)
        # var(w) / (S mean(w)^2) with the unbiased variance, 0 / 0 for one sample
        variance = (num_samples / effective - 1.0) / (num_samples - 1)
        reconstruction, mean_kl = log_px.mean(1), kl.mean(1)
        return cls(
            value=log_weights.logsumexp(1) - math.log(num_samples),
            standard_error=variance.sqrt(),
            effective_sample_size=effective,
            pareto_k=pareto_k(log_weights),
            elbo=reconstruction - mean_kl,
            reconstruction=reconstruction,
            kl=mean_kl,
            num_samples=num_samples,
        )

    @property
    def reliability(self) -> list[str]:
        """One string per image: "good" if k-hat is below 0.7, and otherwise "low".

        With 20 samples or fewer it is always "low", since their tail is too short for an estimate of k-hat.
        """
        return ["good" if k < RELIABLE_PARETO_K else "low" for k in self.pareto_k.tolist()]


@torch.no_grad()
def log_likelihood(
    model: LatentModel,
    x: Tensor,
    *,
    num_samples: int = 5000,
    noise: Tensor | None = None,
    mixture: Mixture | None = None,
    generator: torch.Generator | None = None,
    refine: int = 0,
    max_bytes: int = MAX_BYTES,
) -> LogLikelihood:
    r"""Estimate $\log p(x) = \log \mathbb{E}_{q(z \mid x)} [p(x, z) / q(z \mid x)]$ of each image, in nats.

    Args:
        model: The model.
        x: Images $(N, C, H, W)$ on the model's device.
        num_samples: Importance samples S per image.
        noise: Standard-normal noise of shape $(N, S, noise\_dim)$, in place of a generator.
        mixture: Prior from `model.prior_mixture()`; computed if None.
        generator: Source of the noise, by default torch's global one. Noise is drawn image by image, in blocks of 512
            samples, so it does not depend on `max_bytes`.
        refine: Steps of Adam that fit the proposal to each image first with noise of the generator, see `fit_proposal`;
            0 takes the posterior as it is. The estimate stays a lower bound in expectation.
        max_bytes: Memory of the largest tensor of noise or of the networks, which limits the samples that pass through
            them at once, and is exceeded only where a single sample or block of noise is larger. Up to seven tensors of
            that size exist at once. Besides them, an image takes 64 bytes per sample for its log-weights, and the prior
            is computed without a limit, unless it is given as `mixture`.

    Raises:
        ValueError: If `num_samples` or `max_bytes` is not positive, or `refine` is negative.

    References:
        | Importance Weighted Autoencoders (Burda et al., 2016)
        | https://arxiv.org/abs/1509.00519

    Example:
        >>> from vampprior import ModelConfig, build_model
        >>> model = build_model(ModelConfig(model="vae", image_shape=(1, 4, 4), num_components=5)).eval()
        >>> score = log_likelihood(model, torch.zeros(2, 1, 4, 4), num_samples=100)
        >>> score.value.shape, score.reliability[0] in ("good", "low")
        (torch.Size([2]), True)
    """
    if num_samples < 1 or max_bytes < 1:
        raise ValueError(f"num_samples and max_bytes must be positive, not {num_samples} and {max_bytes}")
    if refine < 0:
        raise ValueError(f"refine must not be negative, but is {refine}")
    rows = chunk_rows(model, max_bytes)
    mixture = model.prior_mixture() if mixture is None else mixture
    proposals = _fit_proposals(model, x, refine, mixture, rows, generator) if refine else None
    estimates, per_batch = [], max(1, rows // num_samples)
    for start in range(0, len(x), per_batch):
        images = x[start : start + per_batch]
        context = tuple(part.unsqueeze(1) for part in model.condition(images))
        proposal = None if proposals is None else Proposal(*(part[start : start + per_batch] for part in proposals))
        drawn: Iterable[Tensor]
        if noise is None:
            drawn = _draw_noise(images, (num_samples, model.noise_dim), rows, generator)
        else:
            drawn = torch.split(noise[start : start + len(images)], rows, dim=1)
        score = partial(_log_px_and_kl, model, images.unsqueeze(1), context, mixture, proposal)
        log_px, kl = (torch.cat(parts, dim=1) for parts in zip(*map(score, drawn), strict=True))
        estimates.append(LogLikelihood.from_samples(log_px, kl))
    return _joined(estimates, num_samples)


def _log_px_and_kl(
    model: LatentModel, x: Tensor, context: Context, mixture: Mixture, proposal: Proposal | None, noise: Tensor
) -> tuple[Tensor, Tensor]:
    if proposal is None:
        return model.log_px_and_kl(x, context, noise, mixture)
    return proposal.log_px_and_kl(model, x, context, noise, mixture)


def _fit_proposals(
    model: LatentModel, x: Tensor, steps: int, mixture: Mixture, rows: int, generator: torch.Generator | None
) -> Proposal:
    """Proposals of all images, with noise that is drawn image by image."""
    per_batch = max(1, rows // DRAWS)
    parts = []
    for images in torch.split(x, per_batch):
        shape = (steps, DRAWS, model.noise_dim)
        noise = torch.stack([draw_random(torch.randn, shape, image, generator) for image in images], dim=1)
        parts.append(fit_proposal(model, images, noise, mixture))
    return Proposal(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _draw_noise(
    images: Tensor, shape: tuple[int, int], rows: int, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Noise of a batch of images, $(N, S, noise_dim)$ for a shape $(S, noise_dim)$, at most `rows` samples at a time.

    If N is greater than 1, N times S must be at most `rows`.
    """
    num_samples, noise_dim = shape
    step = max(NOISE_BLOCK, rows - rows % NOISE_BLOCK)  # whole blocks, whose numbers do not depend on `rows`
    for start in range(0, num_samples, step):
        stop = min(start + step, num_samples)
        lengths = [min(NOISE_BLOCK, stop - block) for block in range(start, stop, NOISE_BLOCK)]
        blocks = (draw_random(torch.randn, (n, noise_dim), image, generator) for image in images for n in lengths)
        yield from torch.split(torch.cat(list(blocks)).reshape(len(images), -1, noise_dim), rows, dim=1)


def chunk_rows(model: LatentModel, max_bytes: int = MAX_BYTES) -> int:
    """Draws of the latents, at least one, that pass through a model at once with no tensor beyond `max_bytes`."""
    return max(1, max_bytes // model.bytes_per_row)


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""Shape $\hat k$ of the generalized Pareto distribution that fits the largest importance weights.

    The tail consists of the $M = \min(S / 5, 3 \sqrt S)$ largest of S weights, and the fit is the posterior mean of
    Zhang & Stephens with the weak prior of Vehtari et al. Below $\hat k = 0.7$ the estimate and its standard error are
    reliable; above it, the estimate is unreliable. $\hat k$ is infinite if the tail has fewer than five weights, as
    with 20 samples or fewer, and 0 if all of them are equal.

    Args:
        log_weights: Shape $(N, S)$.

    Returns:
        Shape $(N)$, in float64.

    References:
        | Pareto Smoothed Importance Sampling (Vehtari et al., 2024)
        | https://arxiv.org/abs/1507.02646
        | A New and Efficient Estimation Method for the Generalized Pareto Distribution (Zhang & Stephens, 2009)
        | https://doi.org/10.1198/tech.2009.08017

    Example:
        >>> uniform = torch.rand(1, 5000, generator=torch.Generator().manual_seed(0))
        >>> pareto_k(-0.3 * uniform.log()) < 0.7, pareto_k(-1.2 * uniform.log()) < 0.7  # tails of shape 0.3 and 1.2
        (tensor([True]), tensor([False]))
    """
    num_samples = log_weights.shape[1]
    tail = math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))
    if tail < 5:
        return torch.full((len(log_weights),), math.inf, dtype=torch.float64)
    largest = log_weights.double().topk(tail + 1, dim=1).values
    weights = (largest - largest[:, :1]).exp()
    excess = (weights[:, :-1] - weights[:, -1:]).flip(1)  # ascending, over the greatest weight outside of the tail
    k = _fit_generalized_pareto(excess)
    return torch.where(excess[:, -1] == 0, 0.0, torch.where(k.isnan(), math.inf, k))


def _fit_generalized_pareto(excess: Tensor) -> Tensor:
    """Posterior mean of the shape for ascending samples $(N, M)$ of generalized Pareto distributions."""
    count = excess.shape[1]
    grid = 30 + math.isqrt(count)
    steps = torch.arange(1, grid + 1, dtype=torch.float64) - 0.5
    quartile = excess[:, int(count / 4 + 0.5) - 1, None]
    theta = 1.0 / excess[:, -1:] + (1.0 - (grid / steps).sqrt()) / (3.0 * quartile)  # (N, grid)
    k = torch.log1p(-theta.unsqueeze(2) * excess.unsqueeze(1)).mean(2)
    log_profile = count * (torch.log(-theta / k) - k - 1.0)
    best = (torch.softmax(log_profile, 1) * theta).sum(1, keepdim=True)
    shape = torch.log1p(-best * excess).mean(1)
    return (count * shape + 10 * 0.5) / (count + 10)  # a prior worth ten samples of shape 1/2


def _joined(estimates: list[LogLikelihood], num_samples: int) -> LogLikelihood:
    names = [field.name for field in fields(LogLikelihood) if field.name != "num_samples"]
    columns = {name: [getattr(estimate, name) for estimate in estimates] for name in names}
    empty = torch.empty(0, dtype=torch.float64)
    return LogLikelihood(
        **{name: torch.cat([empty, *parts]) for name, parts in columns.items()}, num_samples=num_samples
    )
