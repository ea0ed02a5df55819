"""Work for the engine: what a request asks of the model, cut into steps that can be batched with other requests'."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.noise import component_noise, latent_noise, pixel_noise
from service.thread_pool import ThreadPool
from service.tracing import Programs
from vampprior.distributions import Mixture
from vampprior.importance import chunk_rows
from vampprior.latent_model import LatentModel

__all__ = [
    "BLOCK_ROWS",
    "AnyJob",
    "Array",
    "Compute",
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

STEP_BYTES = 1 << 21
"""Memory of the largest tensor of a step: larger ones are no faster and keep other work waiting."""
SHORT_STEP = 1 / 8
"""Length of the shortest step worth a thread of its own, as a share of the longest."""


@dataclass(frozen=True)
class Runtime:
    """A loaded model, its prior, and the threads that compute with it."""

    model: LatentModel
    mixture: Mixture
    device: torch.device
    pool: ThreadPool
    programs: Programs = field(default_factory=Programs)

    @cached_property
    def long_step(self) -> int:
        """Rows of the longest step."""
        return max(1, chunk_rows(self.model, STEP_BYTES) // BLOCK_ROWS) * BLOCK_ROWS

    @property
    def short_step(self) -> int:
        """Rows of a step of a log-likelihood while light jobs arrive, which wait for it to end."""
        return max(1, int(SHORT_STEP * self.long_step) // BLOCK_ROWS) * BLOCK_ROWS

    def step(self, waiting: int) -> int:
        """Rows of a step where so many wait: a part for every thread, but neither too few nor too many."""
        part = math.ceil(waiting / self.pool.size / BLOCK_ROWS) * BLOCK_ROWS
        return min(max(part, self.short_step), self.long_step)

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Where the unit interval is cut into the components' weights."""
        return self.mixture.log_weights.double().exp().cumsum(0).cpu().numpy()

    def sample_index(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Components drawn with the prior's weights, as by `Mixture.sample_index`, without torch."""
        index = np.searchsorted(self._edges, uniform * self._edges[-1], side="right")
        return index.clip(max=len(self._edges) - 1)

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """The array where the model is. On a CPU not even `to` is called, which would wait for Python's lock."""
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def to_host(self, tensor: Tensor) -> NDArray[Any]:
        """The tensor as an array, likewise."""
        host = tensor if self.device.type == "cpu" else tensor.cpu()
        return host.numpy()


Compute = Callable[[], None]
"""Computes rows that were taken; in any thread, and beside other steps of the same job."""


class Job(ABC, Generic[Result]):
    """One request's work of one kind. The engine calls `take` until no rows are left, then asks for the `result`.

    operation: its name in metrics
    light:     whether it goes between the steps of jobs that are not
    rows:      rows that nobody has taken yet
    key:       jobs of equal type and key may be taken together
    """

    operation: ClassVar[str]
    light: ClassVar[bool]
    rows: int
    key: Hashable

    @classmethod
    @abstractmethod
    def take(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> Compute:
        """Take at most about `max_rows` of the jobs' rows, in the jobs' order: called by one thread at a time.

        The jobs are all that wait and may be taken together; for most there may be no room.
        """

    @abstractmethod
    def result(self) -> Result:
        """The answer, once every step that was taken is computed."""


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
        self.outputs: dict[int, tuple[Array, ...]] = {}  # by their first row

    @classmethod
    @abstractmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of a batch of rows, on the model's device."""

    @classmethod
    def take(cls, runtime: Runtime, jobs: Sequence[Self], max_rows: int) -> Compute:
        parts: list[tuple[Self, slice]] = []
        for job in jobs:
            if not max_rows:
                break
            start, count = len(job.inputs[0]) - job.rows, min(job.rows, max_rows)
            parts.append((job, slice(start, start + count)))
            job.rows -= count
            max_rows -= count
        return lambda: cls._advance(runtime, parts)

    @classmethod
    def _advance(cls, runtime: Runtime, parts: Sequence[tuple[Self, slice]]) -> None:
        columns = zip(*([array[rows] for array in job.inputs] for job, rows in parts), strict=True)
        batch = [runtime.to_device(padded(np.concatenate(column))) for column in columns]
        outputs = [runtime.to_host(output) for output in cls._run(runtime, *batch)]
        start = 0
        for job, rows in parts:
            end = start + rows.stop - rows.start
            job.outputs[rows.start] = tuple(output[start:end] for output in outputs)
            start = end

    @classmethod
    def _run(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        if cls.decodes and runtime.model.autoregressive:
            return cls.compute(runtime, *inputs)
        return runtime.programs.run((cls, len(inputs)), lambda *inputs: cls.compute(runtime, *inputs), *inputs)

    def columns(self) -> list[Array]:
        """Each output over all rows."""
        outputs = [self.outputs[start] for start in sorted(self.outputs)]
        return [*outputs[0]] if len(outputs) == 1 else [np.concatenate(column) for column in zip(*outputs, strict=True)]


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
        components = np.full(n, component) if chosen else runtime.sample_index(component_noise(n, seed))
        noise = np.float32(temperature) * latent_noise(model, n, seed)
        super().__init__(components, noise, *pixel_noise(model, n, seed, draw=draw))

    @classmethod
    def compute(cls, runtime: Runtime, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (_sample(runtime, *inputs),)

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
        return (runtime.model.reconstruct(x, noise=noise, pixel_noise=pixels[0] if pixels else None),)

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
        posteriors = list(runtime.model.encode(x).values())
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
        return (_sample(runtime, *inputs),)

    def result(self) -> Array:
        return self.columns()[0]


def _sample(runtime: Runtime, components: Tensor, noise: Tensor, pixel_noise: Tensor | None = None) -> Tensor:
    return runtime.model.sample(component=components, noise=noise, pixel_noise=pixel_noise, mixture=runtime.mixture)


def padded(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows repeated from the last up to a multiple of `BLOCK_ROWS`."""
    missing = math.ceil(len(rows) / BLOCK_ROWS) * BLOCK_ROWS - len(rows)
    return np.concatenate([rows, rows[-1:].repeat(missing, axis=0)]) if missing else rows


AnyJob = Job[Any]
