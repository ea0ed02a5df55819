"""Importance-sampling estimate of log p(x) (Burda et al., 2015; Sec. 5.2 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vampprior.crew import crew_of
from vampprior.distributions import Mixture
from vampprior.models import Context, LatentModel

__all__ = ["LogLikelihood", "RunningLogMeanExp", "log_importance_weights", "log_likelihood", "torch_noise"]

KEPT_CHUNKS = 64
"""Chunks whose weights are kept until they are added up together."""

NoiseSource = Callable[[int], Tensor]
"""Gives standard-normal noise for the next importance samples of every image: s -> (N, s, noise_dim)."""


@dataclass(frozen=True)
class LogLikelihood:
    """A log-likelihood in nats with its Monte Carlo error; each tensor has shape (N,) and is float64 on the CPU.

    value:                 log 1/S sum_s w_s, with w_s = p(x, z_s) / q(z_s | x)
    standard_error:        delta-method standard error of `value`
    effective_sample_size: (sum w)^2 / sum w^2, between 1 and S
    elbo:                  1/S sum_s log w_s, a lower bound of `value`
    num_samples:           S
    """

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    elbo: Tensor
    num_samples: int


class RunningLogMeanExp:
    """log 1/S sum_s w_s over chunks of log-weights, without overflow and without keeping them.

    Holds, per image and in float64, the greatest log-weight m, sum exp(log w - m), sum exp(2 (log w - m)) and
    sum log w. `state` is an array (4, N) from which `from_state` continues; of NumPy, whose small operations do not
    wait for Python's lock.
    """

    def __init__(self, num_images: int) -> None:
        self.num_samples = 0
        self.state = np.zeros((4, num_images))
        self.state[0] = -np.inf

    @classmethod
    def from_state(cls, state: NDArray[np.float64], num_samples: int) -> RunningLogMeanExp:
        """Continue from the `state` and `num_samples` of an earlier accumulator."""
        running = cls(state.shape[1])
        running.state, running.num_samples = state.copy(), num_samples
        return running

    def update(self, log_weights: Tensor) -> None:
        """Take in log-weights of shape (N, s)."""
        chunk = log_weights.to("cpu", torch.float64).numpy()
        old_max, first, second, total = self.state
        new_max = np.maximum(old_max, chunk.max(1))
        shift = new_max.clip(np.finfo(np.float64).min)  # -inf - -inf is no number
        weights = np.exp(chunk - shift[:, None])
        shrink = np.exp(old_max - shift)
        self.state = np.stack(
            [
                new_max,
                first * shrink + weights.sum(1),
                second * np.square(shrink) + np.square(weights).sum(1),
                total + chunk.sum(1),
            ]
        )
        self.num_samples += chunk.shape[1]

    def result(self) -> LogLikelihood:
        """The estimate from all chunks so far; raises `ValueError` before the first."""
        if self.num_samples == 0:
            raise ValueError("no importance samples were taken")
        greatest, first, second, total = self.state
        samples = self.num_samples
        with np.errstate(divide="ignore", invalid="ignore"):  # where every weight is 0
            effective = (np.square(first) / second).clip(1.0, samples)
            value = greatest + np.log(first / samples)
        # var(w) / (S mean(w)^2) with the unbiased variance; one sample says nothing about its error
        variance = (samples / effective - 1.0) / (samples - 1) if samples > 1 else np.full_like(effective, np.nan)
        return LogLikelihood(
            value=torch.from_numpy(value),
            standard_error=torch.from_numpy(np.sqrt(variance)),
            effective_sample_size=torch.from_numpy(effective),
            elbo=torch.from_numpy(total / samples),
            num_samples=samples,
        )


def log_importance_weights(model: LatentModel, x: Tensor, context: Context, noise: Tensor, mixture: Mixture) -> Tensor:
    """log p(x, z) / q(z | x) for draws of every image: x (N, C, H, W), noise (N, s, noise_dim) -> (N, s).

    `context` is `model.condition(x)` and `mixture` is `model.prior_mixture()`, computed once by the caller.
    """
    shared = tuple(part.unsqueeze(1) for part in context)
    log_px, kl = model.log_ratio(x.unsqueeze(1), shared, noise, mixture)
    return log_px - kl


def torch_noise(model: LatentModel, x: Tensor, generator: torch.Generator | None = None) -> NoiseSource:
    """Noise for the images x from a torch generator (the global one by default), on the images' device."""

    def draw(num_samples: int) -> Tensor:
        shape = (len(x), num_samples, model.noise_dim)
        return torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)

    return draw


@torch.inference_mode()
def log_likelihood(
    model: LatentModel,
    x: Tensor,
    *,
    num_samples: int = 5000,
    chunk_rows: int | None = None,
    noise: NoiseSource | None = None,
    mixture: Mixture | None = None,
) -> LogLikelihood:
    """Estimate log p(x) of each image with `num_samples` importance samples, in nats.

    x:          images (N, C, H, W)
    chunk_rows: rows (images times samples) that pass through the networks at once in a thread; the model knows best
    noise:      where the noise comes from; by default torch's global generator
    mixture:    the prior, where the caller already has it

    On a CPU as many threads as torch has compute a chunk each; the noise does not depend on their number. Raises
    `ValueError` unless both numbers are positive.
    """
    chunk_rows = model.chunk_rows if chunk_rows is None else chunk_rows
    if num_samples < 1 or chunk_rows < 1:
        raise ValueError(f"num_samples and chunk_rows must be positive, not {num_samples} and {chunk_rows}")
    mixture = model.prior_mixture() if mixture is None else mixture
    noise = torch_noise(model, x) if noise is None else noise
    crew = crew_of(torch.get_num_threads() if x.device.type == "cpu" else 1)
    groups = [(part, model.condition(part)) for part in torch.split(x, chunk_rows)]
    per_chunk = max(1, chunk_rows // max(1, len(x)))
    chunks = [min(per_chunk, num_samples - start) for start in range(0, num_samples, per_chunk)]

    def draw() -> Iterator[Tensor]:
        for count in chunks:
            yield from noise(count).tensor_split(min(count, math.ceil(crew.size / len(chunks))), dim=1)

    def weigh(noise: Tensor) -> Tensor:
        parts = zip(groups, torch.split(noise, chunk_rows), strict=True)
        return torch.cat([log_importance_weights(model, *group, part, mixture) for group, part in parts])

    running, noises = RunningLogMeanExp(len(x)), draw()
    while log_weights := crew.map(weigh, islice(noises, KEPT_CHUNKS)):
        running.update(torch.cat(log_weights, dim=1))
    return running.result()
