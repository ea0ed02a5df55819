"""Log-likelihoods for the engine: the heavy work, taken a chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from service.jobs import BLOCK_ROWS, Gray, Job, Runtime, padded
from service.noise import seeded_generator
from vampprior.crew import Crew
from vampprior.likelihood import LogLikelihood, RunningLogMeanExp, log_importance_weights
from vampprior.models import Context, LatentModel

__all__ = ["LogLikelihoodJob"]


class LogLikelihoodJob(Job[LogLikelihood]):
    """log p(x) of one image, gray levels (C, H, W), by importance sampling, a chunk of samples at a time.

    The noise comes from a generator seeded with `seed` alone, so that an image's score does not depend on its place in
    a request; and the weights are added up once they are all there, so that it has the same bits whatever the chunks.
    """

    operation = "loglik"
    light = False

    def __init__(self, model: LatentModel, gray: Gray, *, num_samples: int, seed: int) -> None:
        self.gray = gray[None]
        self.x: Tensor | None = None
        self.rows = num_samples
        self.noise = seeded_generator(seed)
        self.noise_dim = model.noise_dim
        self.context: Context | None = None
        self.log_weights: list[Tensor] = []

    @property
    def key(self) -> int:  # type: ignore[override]
        """Samples left: images that have equally many advance together."""
        return self.rows

    @classmethod
    def advance(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> None:
        threads = runtime.crew.size
        samples = min(jobs[0].rows, max_rows)
        jobs = jobs[: max(1, max_rows // max(samples, BLOCK_ROWS))]
        if len(jobs) >= threads:
            each = max(1, min(len(jobs) // threads, runtime.model.chunk_rows // max(samples, BLOCK_ROWS)))
            groups = [jobs[start : start + each] for start in range(0, len(jobs), each)]
            runtime.crew.map(lambda group: cls._draw(runtime, group, samples, None), groups)
        else:
            cls._draw(runtime, jobs, samples, runtime.crew)

    @classmethod
    def _draw(cls, runtime: Runtime, jobs: Sequence[Self], samples: int, crew: Crew | None) -> None:
        """Take so many importance samples more of each job, which a crew shares out."""
        cls._prepare(runtime, jobs)
        x = _joined([job.x for job in jobs if job.x is not None])
        context = [_joined(parts) for parts in zip(*(job.context or () for job in jobs), strict=True)]
        threads = crew.size if crew else 1
        block = max(samples, BLOCK_ROWS * threads)
        noise = torch.zeros(len(jobs), block, jobs[0].noise_dim)
        for row, job in zip(noise, jobs, strict=True):
            row[:samples].normal_(generator=job.noise)

        def weigh(x: Tensor, noise: Tensor, *context: Tensor) -> tuple[Tensor]:
            return (log_importance_weights(runtime.model, x, context, noise, runtime.mixture),)

        def run(share: Tensor) -> Tensor:
            return runtime.programs.run((cls, "weigh"), weigh, x, share, *context)[0]

        shares = noise.to(runtime.device).tensor_split(threads, dim=1)
        log_weights = _joined(crew.map(run, shares) if crew else [run(share) for share in shares], dim=1)
        for job, row in zip(jobs, log_weights[:, :samples].cpu(), strict=True):
            job.log_weights.append(row)
            job.rows -= samples

    @classmethod
    def _prepare(cls, runtime: Runtime, jobs: Sequence[Self]) -> None:
        """The encoder's pass over the images, once for each."""
        fresh = [job for job in jobs if job.context is None]
        if not fresh:
            return
        gray = np.concatenate([job.gray for job in fresh])

        def condition(gray: Tensor) -> tuple[Tensor, ...]:
            x = runtime.model.likelihood.from_bytes(gray)
            return (x, *runtime.model.condition(x))

        x, *context = runtime.programs.run((cls, "condition"), condition, runtime.to_device(padded(gray)))
        for index, job in enumerate(fresh):
            here = slice(index, index + 1)
            job.x, job.context = x[here], tuple(part[here] for part in context)

    def result(self) -> LogLikelihood:
        if self.rows:
            raise RuntimeError("samples are left to draw")
        running = RunningLogMeanExp(1)
        running.update(_joined(self.log_weights).unsqueeze(0))
        return running.result()


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The parts as one tensor; one alone as it is, since an operation is a wait for the interpreter's lock."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts], dim)
