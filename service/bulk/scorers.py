"""Who computes in a bulk run: a running service, or the engine in this process. Both give the same results."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bulk.sources import SourceError
from service.engine.protocol import Layout
from service.errors import Problem
from service.metrics import Metrics
from service.models.loaded import LoadedModel
from service.models.store import ModelStore
from service.settings import MAX_SECONDS, Settings
from vampprior.novelty import NUM_SAMPLES
from vampprior.preparation import Preparation
from vampprior_client import AsyncClient, LogLikelihood, ModelSummary, Novelty, RequestError
from vampprior_client.results import read_npy

__all__ = ["LocalScorer", "RemoteScorer", "Scorer", "Scoring", "local_scorer", "remote_scorer"]

CLIENT = "bulk"
NPY = Layout("npy", 1, 1)
STOP_SECONDS = 10.0

T = TypeVar("T")
Levels = NDArray[np.uint8]
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Scoring:
    """Parameters of the scores.

    Args:
        num_samples: Importance samples of a log-likelihood.
        seed: Seed of all random numbers.
        false_alarm_rate: Share of known images that may be called new; the service's default for None.
    """

    num_samples: int
    seed: int
    false_alarm_rate: float | None


class Scorer(Protocol):
    """Computes with one model. Images are 8-bit levels of the model's shape, (N, C, H, W)."""

    reference: str
    """The model, `name@version`."""
    image_shape: tuple[int, int, int]
    preparation: Preparation | None
    """The preparation on the model's card, if it has one."""
    num_calibration: int | None
    """Calibration images, 0 for none; None if that is not known before the first answer."""

    async def log_likelihoods(self, levels: Levels) -> list[LogLikelihood]:
        """Log-likelihoods of images."""

    async def novelty(self, levels: Levels) -> list[Novelty]:
        """Decisions whether images are new."""

    async def heat_maps(self, levels: Levels) -> Images | None:
        """Where images differ from their prototypes, (N, 1, H, W); None if the model has no prototypes."""

    async def prototypes(self, indices: Iterable[int]) -> dict[int, Images]:
        """Images (C, H, W) of components of the prior by their index, decoded at the components' means."""


class RemoteScorer:
    """A running service."""

    def __init__(self, client: AsyncClient, model: ModelSummary, scoring: Scoring) -> None:
        self._client, self._scoring = client, scoring
        self.num_calibration: int | None = None
        self.reference = f"{model.name}@{model.version}"
        channels, height, width = (model.architecture or {})["image_shape"]
        self.image_shape = (int(channels), int(height), int(width))
        self.preparation = None if model.preparation is None else Preparation.from_dict(model.preparation)

    async def log_likelihoods(self, levels: Levels) -> list[LogLikelihood]:
        scoring = self._scoring
        results = self._client.log_likelihood(
            levels, model=self.reference, num_samples=scoring.num_samples, seed=scoring.seed
        )
        return [result async for result in results]

    async def novelty(self, levels: Levels) -> list[Novelty]:
        scoring, rate = self._scoring, self._scoring.false_alarm_rate
        options = {} if rate is None else {"false_alarm_rate": rate}
        results = self._client.novelty(levels, model=self.reference, seed=scoring.seed, **options)  # type: ignore[arg-type]
        return [result async for result in results]

    async def heat_maps(self, levels: Levels) -> Images | None:
        try:
            return np.array([heat async for heat in self._client.heatmap(levels, model=self.reference)])
        except RequestError:
            return None

    async def prototypes(self, indices: Iterable[int]) -> dict[int, Images]:
        return {index: await self._prototype(index) for index in indices}

    async def _prototype(self, index: int) -> Images:
        page = await self._client.pseudo_inputs(model=self.reference, offset=index, limit=1)
        if page.kind == "decoded components":
            return page.images[0].astype(np.float32)
        samples = await self._client.sample(model=self.reference, pseudo_input=index, temperature=0.0, seed=0)
        return samples.images[0]


@contextlib.asynccontextmanager
async def remote_scorer(
    url: str, api_key: str | None, model: str | None, scoring: Scoring
) -> AsyncIterator[RemoteScorer]:
    """A scorer that asks the service at `url`. Raises `SourceError` if it lacks the model, and `ClientError`."""
    async with AsyncClient(url, api_key=api_key) as client:
        summaries = await client.models()
        yield RemoteScorer(client, _choose(summaries, model), scoring)


def _choose(models: Sequence[ModelSummary], wanted: str | None) -> ModelSummary:
    """The default model, or the one of that name; the newest version of each name comes first."""
    for model in models:
        names = (model.name, f"{model.name}@{model.version}")
        if model.status == "ready" and (wanted in names if wanted else model.default):
            return model
    ready = ", ".join(f"{model.name}@{model.version}" for model in models if model.status == "ready") or "none"
    raise SourceError(f"the service has no model {wanted or 'that is its default'}; there are: {ready}")


class LocalScorer:
    """The engine in this process: the same computations, in worker processes, without HTTP."""

    def __init__(self, model: LoadedModel, scoring: Scoring) -> None:
        self._model, self._engine, self._scoring = model, model.engine, scoring
        self.reference, self.image_shape = model.reference, model.card.model.image_shape
        self.preparation = model.card.preparation
        self.num_calibration: int | None = model.calibrations.get("default", 0)

    async def log_likelihoods(self, levels: Levels) -> list[LogLikelihood]:
        num_samples, seed = self._scoring.num_samples, self._scoring.seed
        with self._engine.admit_scores(len(levels), num_samples, CLIENT) as room:
            scores = (self._engine.score(room, image.tobytes(), num_samples=num_samples, seed=seed) for image in levels)
            bodies = await asyncio.gather(*scores)
        return [_named(body, LogLikelihood) for body in bodies]

    async def novelty(self, levels: Levels) -> list[Novelty]:
        bodies = await self._engine.decide(
            [image.tobytes() for image in levels],
            calibration="default",
            false_alarm_rate=self._scoring.false_alarm_rate,
            fdr=None,
            num_samples=NUM_SAMPLES,
            seed=self._scoring.seed,
            client=CLIENT,
        )
        return [_named(body, Novelty) for body in bodies]

    async def heat_maps(self, levels: Levels) -> Images | None:
        if self._engine.autoregressive and not self._model.has_pseudo_inputs:
            return None
        images = [image.tobytes() for image in levels]
        return read_npy(await self._engine.locate(images, view="heat", layout=NPY, client=CLIENT))

    async def prototypes(self, indices: Iterable[int]) -> dict[int, Images]:
        return {index: await self._prototype(index) for index in indices}

    async def _prototype(self, index: int) -> Images:
        if self._model.has_pseudo_inputs:
            body = await self._engine.sample(
                n=1, seed=0, component=index, temperature=0.0, draw=False, layout=NPY, client=CLIENT
            )
        else:
            body = await self._engine.gallery(
                [index], view="decoded", offset=0, stretch=False, layout=NPY, client=CLIENT
            )
        return read_npy(body)[0]


@contextlib.asynccontextmanager
async def local_scorer(settings: Settings, scoring: Scoring) -> AsyncIterator[LocalScorer]:
    """A scorer that computes in processes of its own. Raises `SourceError` if the model cannot be loaded.

    It takes as much work as a bulk run gives it: queues have no bounds, and there is no deadline.
    """
    unbounded = {"queue_length": 10**6, "queued_rows": 10**12, "deadline_seconds": float(MAX_SECONDS)}
    alone = {"models": settings.default_model, "watch": False}
    store = ModelStore(settings.model_copy(update=unbounded | alone), Metrics())
    try:
        await store.load()
        try:
            model = store.resolve(None)
        except Problem as error:
            raise SourceError(error.detail) from error
        yield LocalScorer(model, scoring)
    finally:
        await store.close(0.0)


def _named(body: bytes, type_: type[T]) -> T:
    """A result of the engine, which lacks the name of the file."""
    return msgspec.json.decode(b'{"file":"",' + body[1:], type=type_)
