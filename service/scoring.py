"""Log-likelihoods for the engine: the heavy work, taken a step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from service.jobs import BLOCK_ROWS, Array, Compute, Gray, Job, Runtime, padded
from service.noise import seeded_generator
from vampprior.importance import LogLikelihood
from vampprior.latent_model import LatentModel

__all__ = ["LogLikelihoodJob"]


class LogLikelihoodJob(Job[LogLikelihood]):
    """log p(x) of one image, gray levels (C, H, W), by importance sampling, some of the samples at a time.

    The noise comes from a generator seeded with `seed` alone, so that an image's score does not depend on its place in
    a request; and the weights are added up once they are all there, so that it has the same bits whatever the steps.
    """

    operation = "loglik"
    light = False

    def __init__(self, model: LatentModel, gray: Gray, *, num_samples: int, seed: int) -> None:
        self.gray = gray[None]
        self.rows = num_samples
        self.noise = seeded_generator(seed)
        self.noise_dim = model.noise_dim
        self.claimed = False  # whether a step was given the image to encode
        self.condition: tuple[Tensor, ...] = ()  # the image and its context, once they are computed
        self.samples: dict[int, Array] = {}  # log p(x | z) and KL, (2, s), by the number of samples after them

    @property
    def key(self) -> int:  # type: ignore[override]
        """Samples left: images that have equally many advance together."""
        return self.rows

    @classmethod
    def take(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> Compute:
        samples = min(jobs[0].rows, max_rows)
        taken = jobs[: max(1, max_rows // max(samples, BLOCK_ROWS))]
        noise = np.zeros((len(taken), max(samples, BLOCK_ROWS), jobs[0].noise_dim), np.float32)
        for row, job in zip(noise, taken, strict=True):
            torch.from_numpy(row[:samples]).normal_(generator=job.noise)
            job.rows -= samples
        left = jobs[0].rows
        fresh = [job for job in jobs if not job.claimed][:max_rows] if any(not job.claimed for job in taken) else []
        for job in fresh:
            job.claimed = True
        return lambda: cls._weigh(runtime, taken, fresh, noise, samples, left)

    @classmethod
    def _weigh(
        cls, runtime: Runtime, jobs: Sequence[Self], fresh: Sequence[Self], noise: Array, samples: int, left: int
    ) -> None:
        """Compute the importance samples that come before the last `left` of each job.

        fresh: jobs whose images the encoder is to pass before that: those that wait go with those that are taken, since
               it takes hardly longer for many
        """
        cls._prepare(runtime, fresh)
        cls._prepare(runtime, [job for job in jobs if not job.condition])  # whose encoding another thread is at
        condition = [_joined(parts) for parts in zip(*(job.condition for job in jobs), strict=True)]

        def weigh(noise: Tensor, *condition: Tensor) -> tuple[Tensor, ...]:
            x, *context = (part.unsqueeze(1) for part in condition)
            return runtime.model.log_px_and_kl(x, tuple(context), noise, runtime.mixture)

        outputs = runtime.programs.run((cls, "weigh"), weigh, runtime.to_device(noise), *condition)
        columns = np.stack([runtime.to_host(output) for output in outputs], axis=1)
        for job, rows in zip(jobs, columns, strict=True):
            job.samples[left] = rows[:, :samples]

    @classmethod
    def _prepare(cls, runtime: Runtime, jobs: Sequence[Self]) -> None:
        """The encoder's pass over the images, if there are any."""
        if not jobs:
            return

        def condition(gray: Tensor) -> tuple[Tensor, ...]:
            x = runtime.model.likelihood.from_bytes(gray)
            return (x, *runtime.model.condition(x))

        gray = padded(np.concatenate([job.gray for job in jobs]))
        parts = runtime.programs.run((cls, "condition"), condition, runtime.to_device(gray))
        for index, job in enumerate(jobs):
            job.condition = tuple(part[index : index + 1] for part in parts)

    def result(self) -> LogLikelihood:
        if self.rows:
            raise RuntimeError("samples are left to draw")
        in_order = [self.samples[left] for left in sorted(self.samples, reverse=True)]
        log_px, kl = torch.from_numpy(np.concatenate(in_order, axis=1)).unsqueeze(1)
        return LogLikelihood.from_samples(log_px, kl)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts as one tensor; one alone as it is, since an operation is a wait for the interpreter's lock."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])
