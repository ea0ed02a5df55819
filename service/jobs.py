"""Work for the engine: what a request asks of the model, cut into steps that can be batched with other requests'."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.noise import component_noise, latent_noise, pixel_noise
from service.tracing import Programs
from vampprior.crew import Crew
from vampprior.distributions import Mixture
from vampprior.models import LatentModel, Latents

__all__ = [
    "BLOCK_ROWS",
    "AnyJob",
    "DecodeJob",
    "EncodeJob",
    "Encoding",
    "Gray",
    "Job",
    "ReconstructJob",
    "Runtime",
    "SampleJob",
    "padded",
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
    programs: Programs = field(default_factory=Programs)

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
    decodes: ClassVar[bool] = True
    """Whether it makes images, for which an autoregressive model takes pixel after pixel."""

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
        batch = [runtime.to_device(padded(np.concatenate(column))) for column in zip(*parts, strict=True)]
        shares = zip(*(torch.split(column, _share(len(column), runtime)) for column in batch), strict=True)
        computed = runtime.crew.map(lambda share: cls._run(runtime, *share), list(shares))
        outputs = [torch.cat(column).cpu().numpy() for column in zip(*computed, strict=True)]
        start = 0
        for job, count in zip(jobs, counts, strict=True):
            job.rows -= count
            job.outputs.append(tuple(output[start : start + count] for output in outputs))
            start += count

    @classmethod
    def _run(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        if cls.decodes and runtime.model.autoregressive:
            return cls.compute(runtime, *inputs)
        return runtime.programs.run((cls, len(inputs)), lambda *inputs: cls.compute(runtime, *inputs), *inputs)

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
    decodes = False

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


def _render(model: LatentModel, latents: Latents, pixels: Tensor | None = None) -> Tensor:
    """The mean image, or with uniform numbers for the pixels a drawn one."""
    return model.mean_image(latents) if pixels is None else model.draw_image(latents, pixels)


def _share(rows: int, runtime: Runtime) -> int:
    """Rows for each of the crew, a multiple of `BLOCK_ROWS`: all of them, where they are too few to share."""
    worth = max(BLOCK_ROWS, int(WORTH_SHARING * runtime.model.chunk_rows))
    parts = max(1, min(runtime.crew.size, rows // worth))
    return math.ceil(rows / parts / BLOCK_ROWS) * BLOCK_ROWS


def padded(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows repeated from the last up to a multiple of `BLOCK_ROWS`."""
    missing = math.ceil(len(rows) / BLOCK_ROWS) * BLOCK_ROWS - len(rows)
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows


AnyJob = Job[Any]
