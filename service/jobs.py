"""Work for the engine: what a request asks of the model, cut into steps that can be batched with other requests'."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.noise import component_noise, latent_noise, pixel_noise, seeded_generator
from vampprior.crew import Crew
from vampprior.distributions import Mixture
from vampprior.likelihood import LogLikelihood, RunningLogMeanExp, log_importance_weights
from vampprior.models import Context, LatentModel, Latents

__all__ = [
    "DecodeJob",
    "EncodeJob",
    "Encoding",
    "Job",
    "LogLikelihoodJob",
    "ReconstructJob",
    "Runtime",
    "SampleJob",
]

Result = TypeVar("Result")
Array = NDArray[np.float32]
Gray = NDArray[np.uint8]

BLOCK_ROWS = 16
"""Batches are padded to a multiple of this, so that matrix products take the same path, and a row gives the same bits,
whatever it was batched with."""

WORTH_SHARING = 1 / 8
"""Of a chunk's rows: a light batch is shared out to threads that get this part of a chunk or more each."""

SHORT_CHUNK_ROWS = 64
"""Rows of a log-likelihood's chunk while light jobs come, which wait for it to end: less efficient, and sooner over."""


@dataclass(frozen=True)
class Runtime:
    """A loaded model, what is computed once for it, and the threads that compute with it."""

    model: LatentModel
    mixture: Mixture
    device: torch.device
    crew: Crew

    @property
    def chunk_rows(self) -> int:
        """Rows of a step: those that pass through the networks at once, on every thread."""
        return self.model.chunk_rows * self.crew.size

    @property
    def short_chunk_rows(self) -> int:
        """The same while light jobs come."""
        return min(self.model.chunk_rows, SHORT_CHUNK_ROWS) * self.crew.size

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Where the unit interval is cut into the components' weights."""
        return self.mixture.log_weights.double().exp().cumsum(0).cpu().numpy()

    def choose(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Components drawn with the prior's weights, as `Mixture.choose` does it; needs no torch, so any thread may."""
        index = np.searchsorted(self._edges, uniform * self._edges[-1], side="right")
        return index.clip(max=len(self._edges) - 1)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """The array where the model is."""
        return torch.from_numpy(array).to(self.device)


class Job(ABC, Generic[Result]):
    """One request's work of one kind. The engine calls `advance` until no rows are left, then takes `result`.

    operation: its name in metrics
    light:     whether it goes between the chunks of jobs that are not
    rows:      rows that still have to pass through the networks
    key:       jobs of equal type and key may advance together
    """

    operation: ClassVar[str]
    light: ClassVar[bool]
    rows: int
    key: Hashable

    @classmethod
    @abstractmethod
    def advance(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> None:
        """Compute at most about `max_rows` more rows of `jobs`, in their order, and lower their `rows`."""

    @abstractmethod
    def result(self) -> Result:
        """The answer, once no rows are left."""


class RowsJob(Job[Result]):
    """A job whose rows are independent: row i of its result depends on row i of its inputs alone.

    inputs: arrays whose first dimension is the row; of NumPy, since jobs are made on the event loop, which would wait
            for Python's lock after every operation of torch
    """

    light = True

    def __init__(self, *inputs: NDArray[Any]) -> None:
        self.inputs = inputs
        self.rows = len(inputs[0])
        self.key = len(inputs)  # jobs with pixel noise and jobs without do not mix
        self.outputs: list[tuple[Array, ...]] = []

    @classmethod
    @abstractmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of a batch of rows, on the model's device."""

    @classmethod
    def advance(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> None:
        parts: list[tuple[NDArray[Any], ...]] = []
        counts: list[int] = []
        left = max_rows
        for job in jobs:
            start = len(job.inputs[0]) - job.rows
            count = min(job.rows, left)
            left -= count
            parts.append(tuple(array[start : start + count] for array in job.inputs))
            counts.append(count)
        batch = [runtime.to_device(_padded(np.concatenate(column))) for column in zip(*parts, strict=True)]
        shares = zip(*(torch.split(column, _share(len(column), runtime)) for column in batch), strict=True)
        computed = runtime.crew.map(lambda share: cls.compute(runtime, *share), list(shares))
        outputs = [torch.cat(column).cpu().numpy() for column in zip(*computed, strict=True)]
        start = 0
        for job, count in zip(jobs, counts, strict=True):
            job.rows -= count
            job.outputs.append(tuple(output[start : start + count] for output in outputs))
            start += count

    def columns(self) -> list[Array]:
        """Each output over all rows."""
        if len(self.outputs) == 1:
            return [*self.outputs[0]]
        return [np.concatenate(column) for column in zip(*self.outputs, strict=True)]


class SampleJob(RowsJob[Array]):
    """Images from the prior, or from one of its components; the result has shape (n, C, H, W).

    The first images of a seed are the same for every n.
    """

    operation = "sample"

    def __init__(
        self, runtime: Runtime, *, n: int, seed: int, component: int | None, temperature: float, draw: bool
    ) -> None:
        model = runtime.model
        chosen = component is not None
        components = np.full(n, component) if chosen else runtime.choose(component_noise(n, seed))
        noise = np.float32(temperature) * latent_noise(model, n, seed)
        super().__init__(components, noise, *pixel_noise(model, n, seed, draw=draw))

    @classmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        components, noise, *pixels = inputs
        latents = runtime.model.descend(runtime.mixture.component(components), noise)
        return (_render(runtime.model, latents, *pixels),)

    def result(self) -> Array:
        return self.columns()[0]


class ReconstructJob(RowsJob[Array]):
    """Gray levels (N, C, H, W) encoded and decoded, at the posterior means or by a draw of latents and pixels.

    The result has the same shape.
    """

    operation = "reconstruct"

    def __init__(self, model: LatentModel, gray: Gray, *, seed: int, draw: bool) -> None:
        n = len(gray)
        noise = latent_noise(model, n, seed) if draw else np.zeros((n, model.noise_dim), np.float32)
        super().__init__(gray, noise, *pixel_noise(model, n, seed, draw=draw))

    @classmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        gray, noise, *pixels = inputs
        x = runtime.model.likelihood.from_bytes(gray)
        posterior = runtime.model.infer(runtime.model.condition(x), noise, runtime.mixture)
        return (_render(runtime.model, posterior.latents, *pixels),)

    def result(self) -> Array:
        return self.columns()[0]


@dataclass(frozen=True)
class Encoding:
    """Posterior of each layer by name, and the prior components' responsibilities at the top mean.

    mean, std:        layer name -> (N, M)
    responsibilities: (N, K)
    """

    mean: dict[str, Array]
    std: dict[str, Array]
    responsibilities: Array


class EncodeJob(RowsJob[Encoding]):
    """Where images, gray levels (N, C, H, W), lie in latent space."""

    operation = "encode"

    def __init__(self, model: LatentModel, gray: Gray) -> None:
        super().__init__(gray)
        self.layers = list(model.latent_dims)

    @classmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        x = runtime.model.likelihood.from_bytes(inputs[0])
        posteriors = list(runtime.model.posteriors(x).values())
        means, stds = [q.mean for q in posteriors], [q.std for q in posteriors]
        return (*means, *stds, runtime.mixture.responsibilities(means[0]))

    def result(self) -> Encoding:
        *layers, responsibilities = self.columns()
        means, stds = layers[: len(self.layers)], layers[len(self.layers) :]
        return Encoding(
            mean=dict(zip(self.layers, means, strict=True)),
            std=dict(zip(self.layers, stds, strict=True)),
            responsibilities=responsibilities,
        )


class DecodeJob(RowsJob[Array]):
    """Prior components decoded at their means, for priors that have no pseudo-inputs to show; result (n, C, H, W)."""

    operation = "decode"

    def __init__(self, model: LatentModel, components: Sequence[int]) -> None:
        n = len(components)
        noise = np.zeros((n, model.noise_dim), np.float32)
        super().__init__(np.array(components), noise, *pixel_noise(model, n, seed=0, draw=False))

    @classmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        components, noise, *pixels = inputs
        latents = runtime.model.descend(runtime.mixture.component(components), noise)
        return (_render(runtime.model, latents, *pixels),)

    def result(self) -> Array:
        return self.columns()[0]


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
        self.score: LogLikelihood | None = None

    @property
    def key(self) -> int:  # type: ignore[override]
        """Samples left: images that have equally many advance together."""
        return self.rows

    @classmethod
    def advance(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> None:
        threads = runtime.crew.size
        samples = min(jobs[0].rows, max_rows)
        jobs = jobs[: max(1, max_rows // max(samples, BLOCK_ROWS))]
        if each := len(jobs) // threads:
            groups = [jobs[start : start + each] for start in range(0, each * threads, each)]
            runtime.crew.map(lambda group: cls._draw(runtime, group, samples, None), groups)
        else:
            cls._draw(runtime, jobs, samples, runtime.crew)

    @classmethod
    def _draw(cls, runtime: Runtime, jobs: Sequence[Self], samples: int, crew: Crew | None) -> None:
        """Take so many importance samples more of each job, which a crew shares out."""
        cls._prepare(runtime, jobs)
        x = torch.cat([job.x for job in jobs if job.x is not None])
        context = tuple(torch.cat(parts) for parts in zip(*(job.context or () for job in jobs), strict=True))
        padded = max(samples, BLOCK_ROWS * (crew.size if crew else 1))
        noise = torch.zeros(len(jobs), padded, jobs[0].noise_dim)
        for row, job in zip(noise, jobs, strict=True):
            row[:samples].normal_(generator=job.noise)
        log_weights = log_importance_weights(runtime.model, x, context, noise.to(runtime.device), runtime.mixture, crew)
        for job, row in zip(jobs, log_weights[:, :samples].cpu(), strict=True):
            job.log_weights.append(row)
            job.rows -= samples
            if not job.rows:
                running = RunningLogMeanExp(1)
                running.update(torch.cat(job.log_weights).unsqueeze(0))
                job.score = running.result()

    @staticmethod
    def _prepare(runtime: Runtime, jobs: Sequence[LogLikelihoodJob]) -> None:
        """The encoder's pass over the images, once for each."""
        fresh = [job for job in jobs if job.context is None]
        if not fresh:
            return
        gray = np.concatenate([job.gray for job in fresh])
        x = runtime.model.likelihood.from_bytes(runtime.to_device(_padded(gray)))
        context = runtime.model.condition(x)
        for index, job in enumerate(fresh):
            here = slice(index, index + 1)
            job.x, job.context = x[here], tuple(part[here] for part in context)

    def result(self) -> LogLikelihood:
        if self.score is None:
            raise RuntimeError("samples are left to draw")
        return self.score


def _render(model: LatentModel, latents: Latents, pixels: Tensor | None = None) -> Tensor:
    """The mean image, or with uniform numbers for the pixels a drawn one."""
    return model.mean_image(latents) if pixels is None else model.draw_image(latents, pixels)


def _share(rows: int, runtime: Runtime) -> int:
    """Rows for each of the crew, a multiple of `BLOCK_ROWS`: all of them, where they are too few to share."""
    worth = max(BLOCK_ROWS, int(WORTH_SHARING * runtime.model.chunk_rows))
    parts = max(1, min(runtime.crew.size, rows // worth))
    return math.ceil(rows / parts / BLOCK_ROWS) * BLOCK_ROWS


def _padded(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows repeated from the last up to a multiple of `BLOCK_ROWS`."""
    missing = math.ceil(len(rows) / BLOCK_ROWS) * BLOCK_ROWS - len(rows)
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows


AnyJob = Job[Any]
