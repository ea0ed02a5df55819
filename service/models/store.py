"""The models that answer: the checkpoints of the store, loaded in the background, named `name` or `name@version`."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from service.engine.engine import EngineState
from service.engine.protocol import reference_of
from service.engine.supervisor import WorkerProcess
from service.errors import ModelNotFound, NotReady, Problem, ReloadRefused, ReloadUnderWay, quoted
from service.metrics import LaneLoad, Metrics
from service.models.catalog import StoreError, describe_error, find_names, find_versions, fingerprint
from service.models.generation import Generation, Refusal, matches
from service.models.loaded import LoadedModel
from service.models.mirror import Mirror
from service.settings import Settings
from service.threads import start_thread

__all__ = ["ModelStore"]

LISTING_SECONDS = 60.0
"""Time that listing a model's folder may take, after which it is refused: a network mount may hang forever."""
WATCH_SECONDS = 2.0
"""Time between two looks at the store; what has changed must look the same at the next one, and is read then."""
REMOTE_WATCH_SECONDS = 15.0
"""The same for a store at an address, where each look is a request that may cost money."""
COPYING_SECONDS = 600.0
"""Time that copying a store from elsewhere may take."""
START_SECONDS = 30.0
"""Time in which new models must have workers after they were loaded, or else the old ones stay."""
POLL_SECONDS = 0.05

logger = logging.getLogger(__name__)


class ModelStore:
    """Loads `<store>/<name>/<version>/` and finds models by name; `reload` replaces them all without a pause."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics, self._mirror = settings, metrics, settings.mirror
        self._present: Generation | None = None
        self._old: list[Generation] = []  # which finish what they have
        self._problem: str | None = None  # with the store itself
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False
        metrics.watch_queues(self._lane_loads)
        metrics.watch_workers(self._worker_processes)
        metrics.ready.set_function(lambda: self.ready)

    @property
    def default(self) -> str:
        """The reference that answers where a request names no model."""
        return self._settings.default_model

    @property
    def models(self) -> list[LoadedModel]:
        """Loaded models by name, the newest version of each name first."""
        return self._present.models if self._present is not None else []

    @property
    def refusals(self) -> list[Refusal]:
        """What does not answer, and why."""
        return self._present.refusals if self._present is not None else []

    # Loading.

    async def load(self) -> None:
        """Load the checkpoints, the default model first; those that do not fit are refused and the rest still load."""
        before = await self._fingerprint() if self._settings.watch else None
        async with self._reloading:
            await self._load()
        if self._settings.watch:
            self._run(self._watch(before))

    async def reload(self) -> None:
        """Load the checkpoints that the store has now into new processes, then move to them.

        Raises `ReloadUnderWay` if models are being loaded, and `ReloadRefused` if the present ones stay: because a
        model that answers now would not any more, though its folder is there, or because of the store itself.
        """
        if self._reloading.locked():
            raise ReloadUnderWay("The models are being loaded; ask again when that is done.")
        async with self._reloading:
            before = self._present
            if before is None or before.engine.state is EngineState.CLOSED:
                await self._load()
                if self._present is before:
                    raise ReloadRefused(f"There are no models: {self._problem}.")
                return
            try:
                generation = await self._open()
            except StoreError as error:
                raise ReloadRefused(f"The models stay as they were: {error}.") from error
            try:
                self._check_swap(before, generation)
            except ReloadRefused:
                generation.engine.close()
                raise
            self._present, self._problem = generation, None
            self._old.append(before)
            self._report(generation, before)
            self._run(self._retire(before, list(self._old[:-1])))

    def begin_reload(self) -> asyncio.Task[None]:
        """`reload` in a task of its own."""
        return self._run(self.reload())

    async def _load(self) -> None:
        try:
            folders, refusals = await self._find()
        except StoreError as error:
            self._problem = str(error)
            logger.error("there are no models: %s", error)
            return
        self._present = generation = Generation(folders, refusals, self._settings, self._metrics)
        await generation.engine.start()
        self._report(generation, None)
        if not self.ready:
            logger.error("not ready: %s", self.unready_reason)

    async def _open(self) -> Generation:
        """A generation with everything loaded. Raises `StoreError`."""
        folders, refusals = await self._find()
        generation = Generation(folders, refusals, self._settings, self._metrics)
        try:
            await generation.engine.start(timeout=START_SECONDS)
        except BaseException as error:
            generation.engine.close()
            if isinstance(error, TimeoutError):
                raise StoreError("no process that computes could be started") from error
            raise
        return generation

    def _check_swap(self, before: Generation, after: Generation) -> None:
        """Raise `ReloadRefused` if a model that answers now would be refused, or the default one be missing."""
        lost = [refusal for refusal in after.refusals if before.find(refusal.reference) is not None]
        if lost:
            reasons = "; ".join(f"{refusal.reference}: {refusal.reason}" for refusal in lost)
            raise ReloadRefused(f"The models stay as they were. {reasons}")
        if before.find(self.default) is not None and after.find(self.default) is None:
            raise ReloadRefused(f"The models stay as they were: the default model {self.default} is not in the store.")

    async def _retire(self, generation: Generation, older: list[Generation]) -> None:
        """End the processes of a generation once no request can come to it any more and all are answered."""
        while generation.requests or any(other in self._old for other in older):
            await asyncio.sleep(POLL_SECONDS)
        await generation.engine.drain()
        self._old.remove(generation)
        generation.engine.close()

    async def _find(self) -> tuple[list[Path], list[Refusal]]:
        """Folders of checkpoints, the default model's first, and what cannot be read. Raises `StoreError`."""
        if self._mirror is not None:
            await self._copy(self._mirror)
        names = await asyncio.wrap_future(start_thread(find_names, self._settings.store_folder))
        chosen = self._settings.model_names()
        if chosen:
            names = [name for name in names if any(wanted.partition("@")[0] == name.name for wanted in chosen)]
        listings = {name: asyncio.wrap_future(start_thread(find_versions, name)) for name in names}
        if listings:
            await asyncio.wait(listings.values(), timeout=LISTING_SECONDS)
        folders: list[Path] = []
        refusals: list[Refusal] = []
        for name, listing in listings.items():
            try:
                folders += listing.result()
            except asyncio.InvalidStateError:
                refusals.append(
                    Refusal(name.name, f"{name.absolute()} cannot be listed within {LISTING_SECONDS:g} seconds")
                )
            except OSError as error:
                refusals.append(Refusal(name.name, f"cannot be read: {describe_error(error)}"))
        refusals += (
            Refusal(wanted, "VAMP_MODELS names it, but it is not in the store")
            for wanted in chosen
            if not any(matches(wanted, reference_of(folder)) for folder in folders)
        )
        if chosen:
            folders = [folder for folder in folders if any(matches(wanted, reference_of(folder)) for wanted in chosen)]
        for refusal in refusals:
            logger.error("refused model %s: %s", refusal.reference, refusal.reason)
        default_name = self.default.partition("@")[0]
        return sorted(folders, key=lambda folder: (folder.parent.name != default_name, str(folder))), refusals

    async def _copy(self, mirror: Mirror) -> None:
        """Copy what has changed in a store that lies elsewhere; if that fails, the copies of before are used.

        Raises `StoreError` if it fails and there are none.
        """
        try:
            await asyncio.wait_for(asyncio.wrap_future(start_thread(mirror.update)), COPYING_SECONDS)
        except TimeoutError:
            error = StoreError(f"{mirror.address} was not copied within {COPYING_SECONDS:g} seconds")
        except StoreError as failure:
            error = failure
        else:
            return
        if not await asyncio.wrap_future(start_thread(fingerprint, mirror.folder)):
            raise error
        logger.error("the models are those that were copied before: %s", error)

    def _report(self, generation: Generation, before: Generation | None) -> None:
        """Set the metrics of models."""
        for model in before.models if before is not None else []:
            if generation.find(model.reference) is None:
                self._metrics.model_ready.remove(model.reference)
                self._metrics.model_load_seconds.remove(model.reference)
        load_seconds = generation.engine.supervisor.load_seconds
        for model in generation.models:
            self._metrics.model_ready.labels(model.reference).set(1)
            self._metrics.model_load_seconds.labels(model.reference).set(load_seconds[model.reference])
        for refusal in generation.refusals:
            self._metrics.model_ready.labels(refusal.reference).set(0)

    async def _watch(self, loaded: object) -> None:
        """Reload when the store has changed and then stays as it is for a moment; `loaded` is how it was at first."""
        seen = loaded
        while True:
            await asyncio.sleep(WATCH_SECONDS if self._mirror is None else REMOTE_WATCH_SECONDS)
            now = await self._fingerprint()
            if now is None:
                continue
            if now != loaded and now == seen:
                try:
                    await self.reload()
                    logger.info("the store has changed and was read again")
                except ReloadUnderWay:
                    continue  # and look again
                except ReloadRefused as error:
                    logger.error("the store has changed, but %s", error.detail)
                loaded = now
            seen = now

    async def _fingerprint(self) -> object:
        """What changes when the store does; None while it cannot be read."""
        if self._mirror is None:
            return await asyncio.wrap_future(start_thread(fingerprint, self._settings.store_folder))
        try:
            return await asyncio.wrap_future(start_thread(self._mirror.listing))
        except StoreError as error:
            logger.warning("the store was not looked at: %s", error)
            return None

    # Answering.

    @property
    def loaded(self) -> bool:
        """True once everything has been loaded or refused."""
        if self._present is None:
            return self._problem is not None
        return self._present.engine.state is not EngineState.LOADING

    @property
    def ready(self) -> bool:
        """True once every checkpoint has been loaded or refused, if the default model answers."""
        present = self._present
        return (
            present is not None
            and self.loaded
            and not self.stopping
            and present.find(self.default) is not None
            and not present.engine.supervisor.failing
        )

    @property
    def loading(self) -> bool:
        """True while models are being loaded."""
        return not self.loaded or self._reloading.locked()

    @property
    def unready_reason(self) -> str:
        """Why the service is not ready, in a clause."""
        if self.stopping:
            return "the service is stopping"
        if not self.loaded:
            return f"models are loading, {self.default} among them"
        if self._present is None:
            return self._problem or "there are no models"
        if refusal := self._present.refusal_of(self.default):
            return f"the default model {self.default} was refused: {refusal.reason}"
        if self._present.find(self.default) is None:
            return f"the default model {self.default} is not there; there are: {self._known()}"
        return "several processes that compute have died within a minute; the log says which"

    def resolve(self, reference: str | None) -> LoadedModel:
        """The model of that name, newest version unless one is named; the default one for None.

        Raises `NotReady` if it is loading, or if the default model is wanted and does not answer, and `ModelNotFound`
        if a model that was named is not there.
        """
        wanted, present = reference or self.default, self._present
        if present is not None and self.loaded and (model := present.find(wanted)):
            return model
        if not self.loaded:
            raise NotReady(f"the models are still loading, {quoted(wanted)} among them", headers={"Retry-After": "1"})
        if not reference:
            raise NotReady(f"{self.unready_reason}; name another model with `model=`, or ask the operator")
        if present is not None and (refusal := present.refusal_of(wanted)):
            raise ModelNotFound(f"{wanted} was refused: {refusal.reason}")
        raise ModelNotFound(f"no model {quoted(wanted)} is loaded; there are: {self._known()}")

    def enter(self) -> Generation | None:
        """Note that a request begins, which keeps the present models until it `leave`s."""
        if self._present is not None:
            self._present.requests += 1
        return self._present

    @staticmethod
    def leave(generation: Generation | None) -> None:
        """Note that a request has ended."""
        if generation is not None:
            generation.requests -= 1

    def is_default(self, model: LoadedModel) -> bool:
        """Whether the model answers requests that name none."""
        return self._present is not None and self._present.find(self.default) is model

    async def close(self, timeout: float) -> None:
        """End all processes, after `timeout` seconds at most for what is being computed."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        engines = [generation.engine for generation in (self._present, *self._old) if generation is not None]
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up and any(lane.requests for e in engines for lane in e.lanes.values()):
            await asyncio.sleep(POLL_SECONDS)
        for engine in engines:
            engine.close()

    def _known(self) -> str:
        return ", ".join(model.reference for model in self.models) or "none"

    def _lane_loads(self) -> dict[str, LaneLoad]:
        """Load of each lane: requests and rows of all generations, and the seconds of the one that takes longest."""
        loads = {"light": LaneLoad(), "heavy": LaneLoad()}
        for generation in (self._present, *self._old):
            for name, lane in generation.engine.lanes.items() if generation is not None else ():
                requests, rows, seconds = loads[name]
                loads[name] = LaneLoad(requests + lane.requests, rows + lane.rows, max(seconds, lane.expected_seconds))
        return loads

    def _worker_processes(self) -> list[WorkerProcess]:
        """Processes of all generations."""
        supervisors = [g.engine.supervisor for g in (self._present, *self._old) if g is not None]
        return [process for supervisor in supervisors for process in supervisor.worker_processes()]

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # in a context of its own, so that log lines do not name the request that began it
        task = asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            level = logging.INFO if isinstance(error, ReloadUnderWay) else logging.ERROR
            logger.log(level, "%s", error, exc_info=None if isinstance(error, Problem) else error)
