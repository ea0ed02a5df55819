"""The engine of one set of models: two lanes of waiting work, and the workers that take from them."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

from service.engine.protocol import Batch, Computed, Loaded, Received, Refused
from service.engine.queue import Lane, Request, Task, Timing
from service.engine.supervisor import Assignment, Supervisor, Worker
from service.errors import Internal, NotReady
from service.metrics import Metrics

__all__ = ["Engine", "EngineState"]

IN_FLIGHT = 2
"""Batches in the hands of a worker; a second one spares it the wait for the front end."""
LIGHT_ROWS = 16
"""Rows of a batch of light work: in larger ones the worker and the front end would wait for each other in turn."""
MAX_DEATHS = 2
"""Workers that a task may end before it fails."""
DRAIN_SECONDS = 0.05

logger = logging.getLogger(__name__)


class EngineState(Enum):
    """Where an engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    CLOSED = "closed"


class Engine:
    """Computes what waits in its lanes, in processes that it starts and watches.

    Work of a worker that ends is computed again. A task that was in the hands of two workers when they ended fails, and
    is not computed again.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        device: str,
        workers: Mapping[str, int],
        max_requests: int,
        max_rows: int,
        max_seconds: float,
        metrics: Metrics,
        on_loaded: Callable[[Loaded], None],
        on_refused: Callable[[Refused], None],
    ) -> None:
        bounds = {"max_requests": max_requests, "max_rows": max_rows}
        self.light = Lane("light", **bounds, max_seconds=max_seconds)
        self.heavy = Lane("heavy", **bounds, max_seconds=max_seconds)
        self.lanes = {lane.name: lane for lane in (self.light, self.heavy)}
        self.supervisor = Supervisor(folders, device=device, workers=workers, listener=self)
        self._metrics, self._on_loaded, self._on_refused = metrics, on_loaded, on_refused
        self._max_rows: dict[str, int] = {}
        self._cards: dict[str, bytes] = {}  # of each checkpoint, as it was when it was first loaded
        self._batches = 0
        self._dispatching = False
        self._closed = False

    @property
    def state(self) -> EngineState:
        """Where it is in its life."""
        if self._closed:
            return EngineState.CLOSED
        return EngineState.READY if self.supervisor.ready.is_set() else EngineState.LOADING

    async def start(self, timeout: float | None = None) -> None:
        """Start the processes; returns once every checkpoint has been loaded or refused and every lane has a worker.

        Raises `TimeoutError` if there are no workers `timeout` seconds after the checkpoints were loaded.
        """
        self.supervisor.start()
        await self.supervisor.loaded.wait()
        async with asyncio.timeout(timeout):
            await self.supervisor.ready.wait()

    async def drain(self) -> None:
        """Wait until nothing waits any more."""
        while any(lane.requests for lane in self.lanes.values()):
            await asyncio.sleep(DRAIN_SECONDS)

    def close(self) -> None:
        """End the processes; what waits or is being computed fails with `NotReady`."""
        if self._closed:
            return
        self._closed = True
        self.supervisor.close()
        in_flight = [task for worker in self.supervisor.workers.values() for task in _tasks(worker)]
        waiting = [task for lane in self.lanes.values() for task in lane.drain()]
        self._fail([*in_flight, *waiting], NotReady("The service stopped computing this answer; ask again."))

    def add(self, request: Request, tasks: Sequence[Task], *, first: bool = False) -> None:
        """Let tasks of a request wait, before all others with `first`. Raises `NotReady` once the engine is closed."""
        if self._closed:
            raise NotReady("The service stops computing; ask again.")
        if tasks[0].model not in self._max_rows:
            raise NotReady(f"{tasks[0].model} cannot be used any more.")
        request.add(tasks, first=first)
        self.dispatch()

    def withdraw(self, request: Request, tasks: Sequence[Task]) -> None:
        """Take out those of a request's tasks that still wait, since nobody wants their results."""
        request.withdraw(tasks)
        self._metrics.observe_batch(tasks, "cancelled", 0.0)

    def dispatch(self) -> None:
        """Give waiting tasks to idle workers at the end of this turn of the event loop, when others have come too."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        for depth in range(IN_FLIGHT):
            for worker in self.supervisor.workers.values():
                if worker.ready and len(worker.in_flight) == depth:
                    lane = self._next_lane(worker)
                    if lane is not None:
                        self._send(worker, lane.take(self._batch_rows(lane)))

    def _next_lane(self, worker: Worker) -> Lane | None:
        """The lane that the worker should take from: with two that wait, the one that it did not take from last."""
        lanes = [self.lanes[name] for name in worker.lanes if self.lanes[name]]
        if len(lanes) > 1 and worker.in_flight:
            last = next(reversed(worker.in_flight.values())).tasks[0].request.lane
            lanes = [lane for lane in lanes if lane is not last]
        return lanes[0] if lanes else None

    def _batch_rows(self, lane: Lane) -> Callable[[str], int]:
        """Rows of a model that a batch may have."""
        most = LIGHT_ROWS if lane is self.light else sys.maxsize
        return lambda model: min(most, self._max_rows.get(model, 1))

    def _send(self, worker: Worker, tasks: list[Task]) -> None:
        now = time.monotonic()
        self._batches += 1
        try:
            worker.send(Batch(self._batches, tasks[0].model, [task.payload for task in tasks]))
        except Exception:  # a payload that is no message must not keep its request, or a worker, waiting
            logger.exception("%s for %s cannot be sent", type(tasks[0].payload).__name__, tasks[0].model)
            self._fail(tasks, Internal("The service failed to compute the answer; its log has the cause."))
            return
        worker.in_flight[self._batches] = Assignment(tasks, now)
        for task in tasks:
            task.started = task.started or now

    # What the supervisor tells.

    def checkpoint_loaded(self, message: Loaded) -> None:
        """Note how much of the model goes through its networks at once.

        A loader that was started again may find another checkpoint than before, which has no part in old answers.
        """
        if self._cards.setdefault(message.reference, message.card) != message.card:
            reason = "its files have changed since it was loaded; reload the models"
            self.checkpoint_refused(Refused(message.reference, reason))
            return
        self._max_rows[message.reference] = message.max_rows
        self._on_loaded(message)

    def checkpoint_refused(self, message: Refused) -> None:
        """Fail what waits for the model."""
        self._max_rows.pop(message.reference, None)
        waiting = [task for lane in self.lanes.values() for task in lane.remove(message.reference)]
        self._fail(waiting, NotReady(f"{message.reference} cannot be used any more: {message.reason}"))
        self._on_refused(message)

    def worker_connected(self, worker: Worker) -> None:  # noqa: ARG002
        """Give it work."""
        self.dispatch()

    def worker_sent(self, worker: Worker, message: Received) -> None:
        """Hand results to those who wait for them."""
        if not isinstance(message, Computed) or message.number not in worker.in_flight:
            return
        tasks, now = worker.in_flight.pop(message.number).tasks, time.monotonic()
        for assignment in worker.in_flight.values():
            assignment.since, assignment.first = now, None  # it begins with it now
        self.dispatch()
        if message.error:
            self._fail(tasks, Internal("The service failed to compute the answer; its log has the cause."))
            return
        wanted = [task for task in tasks if not task.result.done()]
        timing = Timing(now - message.seconds, now - message.render_seconds, now)
        for task, result in zip(tasks, message.results, strict=True):
            task.release(computed=True)
            task.timing = timing
            if not task.result.done():
                task.result.set_result(result)
        self._metrics.observe_batch(wanted, "ok", message.seconds)

    def worker_ended(self, worker: Worker, *, died: bool) -> None:
        """Have its tasks computed again; the first batch is what it was computing when it died."""
        batches = [assignment.tasks for assignment in worker.in_flight.values()]
        worker.in_flight.clear()
        for number, tasks in reversed(list(enumerate(batches))):
            wanted = []
            for task in tasks:
                if task.result.done():  # nobody waits for it any more
                    task.release(computed=False)
                else:
                    wanted.append(task)
            if number == 0 and died:
                wanted = self._survivors(wanted)
            if wanted:
                wanted[0].request.lane.put_first(wanted)
        self.dispatch()

    def process_died(self, kind: str) -> None:
        """Count it."""
        self._metrics.process_deaths_total.labels(kind).inc()

    def process_restarted(self, kind: str) -> None:
        """Count it."""
        self._metrics.process_restarts_total.labels(kind).inc()

    def _survivors(self, tasks: Sequence[Task]) -> list[Task]:
        """Count a death for each task; those that were in the hands of two workers that died fail."""
        for task in tasks:
            task.deaths += 1
        failed = [task for task in tasks if task.deaths >= MAX_DEATHS]
        if failed:
            self._fail(failed, Internal("Computing the answer ended a process twice; it is not tried again."))
            self.supervisor.forgive(MAX_DEATHS)
        return [task for task in tasks if task.deaths < MAX_DEATHS]

    def _fail(self, tasks: Sequence[Task], error: Exception) -> None:
        for task in tasks:
            task.release(computed=False)
            if not task.result.done():
                task.result.set_exception(error)
        self._metrics.observe_batch(tasks, "error", 0.0)


def _tasks(worker: Worker) -> list[Task]:
    return [task for assignment in worker.in_flight.values() for task in assignment.tasks]
