"""The worker processes of one set of models: started, given work, watched, started again and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec

from service.engine.protocol import (
    Batch,
    Computed,
    Exited,
    Fork,
    Forked,
    Kill,
    Loaded,
    LoaderReady,
    Message,
    MessageStream,
    Received,
    Refused,
    decode,
    encode,
)
from service.engine.queue import Lane, Task
from service.errors import Internal, NotReady

__all__ = ["Pool", "PoolEvents", "PoolState", "Worker"]

MAX_BATCH_ROWS = 512
IN_FLIGHT = {"light": 1, "heavy": 2}
"""Batches in the hands of a worker; a second one spares a heavy worker the wait for the front end."""
NICE = {"light": 0, "heavy": 10}
SILENT_SECONDS = 10.0
SILENT_UNITS = 20
CHECK_SECONDS = 0.5
START_SECONDS = 10.0
DEATH_WINDOW_SECONDS, MAX_DEATHS = 60.0, 3
PACKET_BYTES = 1 << 16

logger = logging.getLogger(__name__)


class PoolState(Enum):
    """Where a pool is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"


@dataclass
class PoolEvents:
    """What a pool tells: checkpoints that were loaded or refused, batches that were computed, workers that died."""

    loaded: Callable[[Loaded], None]
    refused: Callable[[Refused], None]
    computed: Callable[[Sequence[Task], float], None]
    died: Callable[[str], None]


@dataclass(eq=False)
class Worker:
    """A worker process.

    stream:    its connection
    in_flight: batches in its hands by number, each with the time when it was sent
    process:   its number for the system, once it is known
    """

    number: int
    lane: Lane
    stream: MessageStream | None = None
    in_flight: dict[int, tuple[list[Task], float]] = field(default_factory=dict)
    process: int | None = None
    started: float = field(default_factory=time.monotonic)


class Pool:
    """A loader process and the workers that it forks.

    Work of a worker that ends is computed again. A task that was in the hands of two workers when they ended fails, and
    is not computed again.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        device: str,
        lanes: Sequence[tuple[Lane, int]],
        events: PoolEvents,
    ) -> None:
        self._folders, self._device, self._events = list(folders), device, events
        self._lanes = list(lanes)
        self.state = PoolState.LOADING
        self._workers: dict[int, Worker] = {}
        self._numbers = 0
        self._batches = 0
        self._deaths: deque[float] = deque()
        self._unit_seconds: dict[str, float] = {}
        self._loader: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._watch: asyncio.Task[None] | None = None
        self._dispatching: set[Lane] = set()
        self.loaded = asyncio.Event()
        """Set once every checkpoint has been loaded or refused and the workers are there."""

    # Life.

    def start(self) -> None:
        """Start the loader; the rest follows from its messages."""
        self._start_loader()
        self._watch = asyncio.get_running_loop().create_task(self._watch_workers())

    @property
    def failing(self) -> bool:
        """True if several workers have ended within a minute, and no task is to blame."""
        while self._deaths and self._deaths[0] < time.monotonic() - DEATH_WINDOW_SECONDS:
            self._deaths.popleft()
        return len(self._deaths) >= MAX_DEATHS

    async def drain(self) -> None:
        """Compute what waits, then end the processes."""
        if self.state is not PoolState.CLOSED:
            self.state = PoolState.DRAINING
        while any(lane.tasks for lane, _ in self._lanes):
            await asyncio.sleep(CHECK_SECONDS / 10)
        self.close()

    def close(self) -> None:
        """End the processes; what waits fails with `NotReady`."""
        if self.state is PoolState.CLOSED:
            return
        self.state = PoolState.CLOSED
        if self._watch is not None:
            self._watch.cancel()
        self._stop_loader()
        error = NotReady("The service stopped computing this answer; ask again.")
        for worker in list(self._workers.values()):
            for tasks, _ in worker.in_flight.values():
                self._fail(tasks, error)
            worker.in_flight.clear()
            if worker.stream is not None:
                worker.stream.close()
        self._workers.clear()
        for lane, _ in self._lanes:
            self._fail(lane.drain(), error)

    def processes(self) -> list[int]:
        """Processes that are alive."""
        workers = [worker.process for worker in self._workers.values() if worker.process is not None]
        return [*workers, *([self._loader.pid] if self._loader is not None else [])]

    # Work.

    def dispatch(self, lane: Lane) -> None:
        """Give waiting tasks to idle workers at the end of this turn of the event loop, when others have come too."""
        if lane not in self._dispatching:
            self._dispatching.add(lane)
            asyncio.get_running_loop().call_soon(self._dispatch, lane)

    def _dispatch(self, lane: Lane) -> None:
        self._dispatching.discard(lane)
        idle = [worker for worker in self._workers.values() if worker.lane is lane and worker.stream is not None]
        for depth in range(IN_FLIGHT[lane.name]):
            for worker in idle:
                if len(worker.in_flight) == depth and lane:
                    self._send(worker, lane.take(MAX_BATCH_ROWS))

    def _send(self, worker: Worker, tasks: list[Task]) -> None:
        now = time.monotonic()
        self._batches += 1
        worker.in_flight[self._batches] = tasks, now
        for task in tasks:
            task.started = task.started or now
        assert worker.stream is not None
        worker.stream.send(Batch(self._batches, tasks[0].model, [task.payload for task in tasks]))

    def _computed(self, worker: Worker, message: Computed) -> None:
        tasks, _ = worker.in_flight.pop(message.number)
        worker.in_flight = {number: (batch, time.monotonic()) for number, (batch, _) in worker.in_flight.items()}
        self.dispatch(worker.lane)
        if message.error:
            self._fail(tasks, Internal("The service failed to compute the answer; its log has the cause."))
            return
        for task, result in zip(tasks, message.results, strict=True):
            worker.lane.release(task, computed=True)
            if not task.result.done():
                task.result.set_result(result)
        self._events.computed(tasks, message.seconds)

    def _fail(self, tasks: Sequence[Task], error: Exception) -> None:
        for task in tasks:
            task.lane.release(task, computed=False)
            if not task.result.done():
                task.result.set_exception(error)

    # Processes.

    def _start_loader(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        start = {"folders": [str(folder) for folder in self._folders], "device": self._device, "parent": os.getpid()}
        with theirs:
            self._loader = subprocess.Popen(
                [sys.executable, "-m", "service.engine.loader", str(theirs.fileno()), msgspec.json.encode(start)],
                pass_fds=[theirs.fileno()],
            )
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read_control)

    def _stop_loader(self) -> None:
        """End the loader and with it all workers."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._loader is not None:
            self._loader.kill()
            self._loader.wait()
            self._loader = None

    def _read_control(self) -> None:
        assert self._control is not None
        with contextlib.suppress(BlockingIOError):
            try:
                packet = self._control.recv(PACKET_BYTES)
            except ConnectionError:
                packet = b""
            if packet:
                self._handle(decode(packet))
            else:
                self._loader_ended()

    def _handle(self, message: Received) -> None:
        if isinstance(message, Loaded):
            self._unit_seconds[message.reference] = message.unit_seconds
            if not self.loaded.is_set():
                self._events.loaded(message)
        elif isinstance(message, Refused):
            if not self.loaded.is_set():
                self._events.refused(message)
        elif isinstance(message, LoaderReady):
            for lane, count in self._lanes:
                for _ in range(count):
                    self._fork(lane)
            if self.state is PoolState.LOADING:
                self.state = PoolState.READY
            self.loaded.set()
        elif isinstance(message, Forked) and message.number in self._workers:
            self._workers[message.number].process = message.pid
        elif isinstance(message, Exited):
            logger.info("worker %d ended with status %d", message.number, message.status)

    def _fork(self, lane: Lane) -> None:
        """Have the loader fork a worker."""
        if self._control is None or self.state is PoolState.CLOSED:
            return
        self._numbers += 1
        worker = self._workers[self._numbers] = Worker(self._numbers, lane)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                socket.send_fds(
                    self._control, [encode(Fork(worker.number, NICE[lane.name]))], [theirs.fileno()]
                )
            except OSError:
                ours.close()
                self._loader_ended()
                return
        asyncio.get_running_loop().create_task(self._connect(worker, ours))

    async def _connect(self, worker: Worker, connection: socket.socket) -> None:
        stream = MessageStream(
            lambda message: self._received(worker, message), lambda: self._worker_ended(worker)
        )
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=connection)
        worker.stream = stream
        self.dispatch(worker.lane)

    def _received(self, worker: Worker, message: Received) -> None:
        if isinstance(message, Computed):
            self._computed(worker, message)

    def _worker_ended(self, worker: Worker) -> None:
        """Have the tasks in its hands computed again, and start another worker in its place."""
        if self._workers.pop(worker.number, None) is None or self.state is PoolState.CLOSED:
            return
        self._deaths.append(time.monotonic())
        self._events.died(worker.lane.name)
        logger.warning("a worker of the %s lane died with %d batches", worker.lane.name, len(worker.in_flight))
        first = True
        for tasks, _ in worker.in_flight.values():
            if first:  # what it was computing; the rest it had not begun
                tasks = self._survivors(tasks)
                first = False
            worker.lane.repeat(tasks)
        self._fork(worker.lane)
        self.dispatch(worker.lane)

    def _survivors(self, tasks: Sequence[Task]) -> list[Task]:
        """Count a death for each task; those that were in the hands of two workers that died fail."""
        for task in tasks:
            task.deaths += 1
        failed = [task for task in tasks if task.deaths > 1]
        if failed:
            self._fail(failed, Internal("Computing the answer ended a process twice; it is not tried again."))
            for _ in range(min(2, len(self._deaths))):  # the task is to blame
                self._deaths.pop()
        for task in tasks:
            if task.deaths <= 1 and task.result.done():  # nobody waits for it any more
                task.lane.release(task, computed=False)
        return [task for task in tasks if not task.result.done()]

    def _loader_ended(self) -> None:
        """Start everything again: the workers end with their loader."""
        if self.state is PoolState.CLOSED:
            return
        logger.error("the loader of the workers died")
        self._deaths.append(time.monotonic())
        self._events.died("loader")
        self._stop_loader()
        for worker in list(self._workers.values()):
            if worker.stream is not None:
                worker.stream.close()  # which calls `_worker_ended`
            else:
                self._workers.pop(worker.number)
        self._start_loader()

    async def _watch_workers(self) -> None:
        """Kill workers that are silent for too long."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            for worker in list(self._workers.values()):
                if worker.stream is None:
                    continue
                since = min((sent for _, sent in worker.in_flight.values()), default=now)
                tasks = next(iter(worker.in_flight.values()), ([], 0.0))[0]
                if now - since > self._patience(tasks):
                    logger.error("worker %d has been silent for %.1f seconds and is killed", worker.number, now - since)
                    self._kill(worker)

    def _patience(self, tasks: Sequence[Task]) -> float:
        unit = max((self._unit_seconds.get(task.model, 0.0) for task in tasks), default=0.0)
        return max(SILENT_SECONDS, SILENT_UNITS * unit)

    def _kill(self, worker: Worker) -> None:
        with contextlib.suppress(OSError):
            if self._control is not None:
                self._control.send(encode(Kill(worker.number)))
        if worker.process is not None and worker.stream is not None:
            worker.stream.close()


