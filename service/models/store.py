"""The models that answer: every checkpoint of the store, loaded in the background, named `name` or `name@version`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from concurrent.futures import wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hardware import available_threads
from service.models.catalog import StoreError, describe_error, find_names, find_versions
from service.engine import Engine
from service.errors import ModelNotFound, NotReady, PseudoInputNotFound, quoted
from service.jobs import AnyJob, EncodeJob, ReconstructJob, Runtime, SampleJob
from service.metrics import Metrics
from service.scoring import LogLikelihoodJob
from service.settings import Settings
from service.thread_pool import thread_pool
from service.threads import start_thread
from vampprior.card import CARD_FILE, Card, CheckpointError, read_card
from vampprior.checkpoint import load_checkpoint

__all__ = ["LoadedModel", "ModelStore", "Refusal"]

STALL_SECONDS = 60.0
"""How long one model's files may keep the others waiting, as those of a network mount that hangs would forever."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint that answers.

    pseudo_inputs: images (K, C, H, W) in [0, 1], or None if the prior has none
    weights:       the prior's component weights, shape (K,), summing to 1
    """

    card: Card
    engine: Engine
    runtime: Runtime
    pseudo_inputs: NDArray[np.float32] | None
    weights: NDArray[np.float32]

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.card.name}@{self.card.version}"

    @cached_property
    def digest(self) -> str:
        """A hash for cache keys: of the card, since answers hold its name and quantiles, and it the weights' sha256."""
        return hashlib.sha256(json.dumps(self.card.to_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def num_components(self) -> int:
        """Components K of the prior."""
        return len(self.weights)

    def component(self, number: int) -> int:
        """The number of a prior component; raises `PseudoInputNotFound` if there is none of that number."""
        if not 0 <= number < self.num_components:
            kind = "components" if self.pseudo_inputs is None else "pseudo-inputs"
            raise PseudoInputNotFound(
                f"{self.reference} has {kind} 0 to {self.num_components - 1}, none numbered {number}"
            )
        return number

    def component_of(self, pseudo_input: int) -> int:
        """The prior component of a pseudo-input; raises `PseudoInputNotFound` if there is none of that number."""
        if self.pseudo_inputs is None:
            raise PseudoInputNotFound(
                f"the prior of {self.reference} is {self.card.model.prior!r} and has no pseudo-inputs but "
                f"{self.num_components} component{'s' if self.num_components > 1 else ''}, which GET /pseudo-inputs "
                "shows decoded; leave pseudo_input out to sample from the whole prior"
            )
        return self.component(pseudo_input)


@dataclass(frozen=True)
class Refusal:
    """A folder of the store that does not answer, and why."""

    reference: str
    reason: str


class ModelStore:
    """Loads `<store>/<name>/<version>/` and finds models by name."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        # before any engine starts, since what torch says of the machine is what a thread last set
        self._threads = settings.threads or available_threads()
        self._answering: dict[str, LoadedModel] = {}  # by `name@version`, and the newest of each name by `name`
        self.models: list[LoadedModel] = []
        """Loaded models by name, the newest version of each name first."""
        self._engines: list[Engine] = []
        self._pending: set[str] = set()  # `name@version` of models that are being loaded, or will be
        self._problem: str | None = None  # with the store itself
        self.refusals: list[Refusal] = []
        self.loaded = self.stopping = False

    @property
    def default(self) -> str:
        """The reference that answers where a request names no model."""
        return self._settings.default_model

    async def load(self) -> None:
        """Load every checkpoint, the default model first; those that do not fit are refused and the rest still load.

        A model that has not loaded after `STALL_SECONDS` no longer keeps the others waiting; it answers once it loads.
        """
        try:
            folders = await self._find()
        except StoreError as error:
            self._problem, self.loaded = str(error), True
            logger.error("there are no models: %s", error)
            return
        self._pending = {_reference(folder) for folder in folders}
        async with asyncio.TaskGroup() as group:
            for folder in folders:
                task = group.create_task(self._load_or_refuse(folder))
                done, _ = await asyncio.wait([task], timeout=STALL_SECONDS)
                if not done:
                    logger.error(
                        "model %s has not loaded within %g seconds; the others go on", _reference(folder), STALL_SECONDS
                    )
            self.loaded = True
            if not self.ready:
                logger.error("not ready: %s", self.unready_reason)

    async def _find(self) -> list[Path]:
        """Folders of checkpoints, the default model's first. Raises `StoreError`."""
        names = await asyncio.wrap_future(start_thread(find_names, self._settings.model_store))
        listings = {name: asyncio.wrap_future(start_thread(find_versions, name)) for name in names}
        if listings:
            await asyncio.wait(listings.values(), timeout=STALL_SECONDS)
        folders: list[Path] = []
        for name, listing in listings.items():
            try:
                folders += listing.result()
            except asyncio.InvalidStateError:
                self._refuse(name.name, f"{name.absolute()} cannot be listed within {STALL_SECONDS:g} seconds")
            except OSError as error:
                self._refuse(name.name, f"cannot be read: {describe_error(error)}")
        default_name = self.default.partition("@")[0]
        return sorted(folders, key=lambda folder: (folder.parent.name != default_name, str(folder)))

    async def _load_or_refuse(self, folder: Path) -> None:
        reference = _reference(folder)
        try:
            self._add(await self._load_one(folder, reference))
            self._metrics.model_ready.labels(reference).set(1)
            logger.info("loaded model %s", reference)
        except CheckpointError as error:
            self._refuse(reference, str(error))
        except Exception as error:
            logger.exception("model %s failed to load", reference)
            self._refuse(reference, f"failed to load: {error}")
        self._pending.discard(reference)

    async def _load_one(self, folder: Path, reference: str) -> LoadedModel:
        card = await asyncio.wrap_future(start_thread(read_card, folder))
        if (card.name, card.version) != (folder.parent.name, folder.name):
            raise CheckpointError(f"{folder / CARD_FILE} is the card of {card.name}@{card.version}")
        device = _device(self._settings.device)
        engine = Engine(
            reference,
            lambda: _load_runtime(folder, device, self._threads),
            queue_length=self._settings.queue_length,
            queued_rows=self._settings.queued_rows,
            metrics=self._metrics,
        )
        self._engines.append(engine)
        # a stop while it loads must not cancel the future that the compute thread will fill
        runtime = await asyncio.shield(asyncio.wrap_future(engine.runtime))
        pseudo_inputs = runtime.model.prior.pseudo_inputs
        return LoadedModel(
            card,
            engine,
            runtime,
            None if pseudo_inputs is None else pseudo_inputs.detach().cpu().numpy(),
            runtime.mixture.log_weights.exp().cpu().numpy(),
        )

    def _add(self, model: LoadedModel) -> None:
        newest_first = sorted([*self.models, model], key=lambda model: _order(model.card.version), reverse=True)
        self.models = sorted(newest_first, key=lambda model: model.card.name)
        self._answering = {m.card.name: m for m in reversed(self.models)} | {m.reference: m for m in self.models}

    def _refuse(self, reference: str, reason: str) -> None:
        logger.error("refused model %s: %s", reference, reason)
        self._metrics.model_ready.labels(reference).set(0)
        self.refusals.append(Refusal(reference, reason))

    @property
    def ready(self) -> bool:
        """True once every checkpoint has been loaded, refused or found to stall, if the default model answers."""
        return self.loaded and not self.stopping and self.default in self._answering

    @property
    def loading(self) -> bool:
        """True while a model may still be added."""
        return not self.loaded or bool(self._pending)

    @property
    def unready_reason(self) -> str:
        """Why the service is not ready, in a clause."""
        if self.stopping:
            return "the service is stopping"
        if not self.loaded or self._is_pending(self.default):
            return f"models are loading, {self.default} among them"
        if self._problem is not None:
            return self._problem
        if refusal := self._refusal_of(self.default):
            return f"the default model {self.default} was refused: {refusal.reason}"
        return f"the default model {self.default} is not there; there are: {self._known()}"

    def resolve(self, reference: str | None) -> LoadedModel:
        """The model of that name, newest version unless one is named; the default one for None.

        Raises `NotReady` if it is loading, or if the default model is wanted and does not answer, and `ModelNotFound`
        if a model that was named is not there.
        """
        wanted = reference or self.default
        if model := self._answering.get(wanted):
            return model
        if not self.loaded or self._is_pending(wanted):
            raise NotReady(f"the models are still loading, {quoted(wanted)} among them", headers={"Retry-After": "1"})
        if not reference:
            raise NotReady(f"{self.unready_reason}; name another model with `model=`, or ask the operator")
        if refusal := self._refusal_of(wanted):
            raise ModelNotFound(f"{wanted} was refused: {refusal.reason}")
        raise ModelNotFound(f"no model {quoted(wanted)} is loaded; there are: {self._known()}")

    def _is_pending(self, wanted: str) -> bool:
        return any(_matches(wanted, reference) for reference in self._pending)

    def _refusal_of(self, wanted: str) -> Refusal | None:
        return next((refusal for refusal in self.refusals if _matches(wanted, refusal.reference)), None)

    def _known(self) -> str:
        return ", ".join(model.reference for model in self.models) or "none"

    def is_default(self, model: LoadedModel) -> bool:
        """Whether the model answers requests that name none."""
        return self._answering.get(self.default) is model

    def close(self, timeout: float) -> None:
        """Stop the engines, within `timeout` seconds; those that are loading or compute for longer are left behind."""
        self.stopping = True
        give_up = time.monotonic() + timeout
        # side by side, since each may take all of the time
        closing = [start_thread(engine.close, timeout) for engine in self._engines if engine.runtime.done()]
        for engine in self._engines:
            if not engine.runtime.done():
                engine.close(0)
        wait(closing, max(0.0, give_up - time.monotonic()))


def _reference(folder: Path) -> str:
    """`name@version`."""
    return f"{folder.parent.name}@{folder.name}"


def _matches(wanted: str, reference: str) -> bool:
    return reference == wanted if "@" in wanted else reference.partition("@")[0] == wanted


def _order(version: str) -> list[int]:
    """Versions as numbers, so that 10 is newer than 9."""
    return [int(part) for part in re.findall(r"\d+", version)]


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _load_runtime(folder: Path, device: torch.device, threads: int) -> Runtime:
    model, _ = load_checkpoint(folder)
    model = model.to(device)
    with torch.inference_mode():
        runtime = Runtime(model, model.prior_mixture(), device, thread_pool(threads if device.type == "cpu" else 1))
        _warm_up(runtime)
    return runtime


def _warm_up(runtime: Runtime) -> None:
    """Run every kind of job once, so that the first request finds memory and kernels in place."""
    model = runtime.model
    image = np.zeros((1, *model.config.image_shape), dtype=np.uint8)
    jobs: list[AnyJob] = [
        SampleJob(runtime, n=1, seed=0, component=None, temperature=1.0, draw=False),
        ReconstructJob(model, image, seed=0, draw=True),
        EncodeJob(model, image),
        LogLikelihoodJob(model, image[0], num_samples=1, seed=0),
    ]
    for job in jobs:
        while job.rows:
            type(job).take(runtime, [job], runtime.short_step)()
        job.result()
