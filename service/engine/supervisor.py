"""The processes of an engine: a loader and its workers, started, watched, started again and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from service.engine.protocol import (
    UNIT_SAMPLES,
    Exited,
    Fork,
    Forked,
    Kill,
    Loaded,
    LoaderReady,
    Loading,
    Message,
    MessageStream,
    Received,
    Refused,
    frame,
    reference_of,
)
from service.engine.queue import Task
from service.threads import start_thread

__all__ = ["Assignment", "Listener", "LoaderStart", "Supervisor", "Worker", "WorkerProcess"]

NICE = {"light": 0, "heavy": 10}
SILENT_SECONDS, SILENT_UNITS = 10.0, 20
"""A worker that computes for longer than the larger of the two, in seconds and in units of heavy work, is killed."""
STALL_SECONDS = 60.0
"""Time that a checkpoint may take to load, after which it is refused: files of a network mount may hang forever."""
START_SECONDS = 10.0
"""Time that forking a worker may take."""
PAUSE_SECONDS = 0.5
"""Pause before a process that ended soon after its start is started again."""
CHECK_SECONDS = 0.5
DEATH_SECONDS, MAX_DEATHS = 60.0, 3

logger = logging.getLogger(__name__)


class LoaderStart(msgspec.Struct, frozen=True):
    """What a loader is told at its start, as JSON in its arguments.

    folders: checkpoints, in the order in which they are loaded
    parent:  process with which it ends
    """

    folders: list[str]
    device: str
    parent: int


class LoaderProcess(Protocol):
    """The part of `subprocess.Popen` that is used."""

    pid: int

    def kill(self) -> None:
        """Kill the process."""

    def wait(self) -> int:
        """Wait for its end."""


@dataclass
class Assignment:
    """A batch in the hands of a worker, and when it began to be computed.

    first, last: processor time of the worker when it was first and last looked at, in seconds
    moved:       when that was last seen to grow
    """

    tasks: list[Task]
    since: float
    first: float | None = None
    last: float = 0.0
    moved: float = 0.0

    def progresses(self, seconds: float | None, now: float, patience: float) -> bool:
        """True if the worker had little processor time for the batch, and still gets some.

        At its low priority it may have to wait for other programs. `seconds` is its processor time, None if unknown.
        """
        if seconds is None:
            return False
        if self.first is None:
            self.first, self.last, self.moved = seconds, seconds, now
        elif seconds > self.last:
            self.last, self.moved = seconds, now
        return now - self.moved < SILENT_SECONDS and seconds - self.first < patience


@dataclass(eq=False)
class Worker:
    """A worker process.

    lanes:     names of the lanes that it works for
    stream:    connection, once it is there
    process:   its number for the system, once it has been forked
    in_flight: batches in its hands by number, in the order in which it computes them
    slot:      its place among the workers of its lanes, which is free again when it ends
    """

    number: int
    lanes: tuple[str, ...]
    slot: int = 0
    stream: MessageStream | None = None
    process: int | None = None
    started: float = field(default_factory=time.monotonic)
    in_flight: dict[int, Assignment] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """True if it can be given work: it is connected, and the process is known to be there."""
        return self.stream is not None and self.process is not None

    def send(self, message: Message) -> None:
        """Send a message without waiting; one to a worker that has ended is lost."""
        if self.stream is not None:
            self.stream.send(message)


class WorkerProcess(NamedTuple):
    """A process of the engine that is alive.

    lane: the lane it works for, `light+heavy` for both, or `loader`
    slot: its place among the workers of the lane
    """

    lane: str
    slot: int
    pid: int


class Listener(Protocol):
    """Whom a supervisor tells what happens."""

    def checkpoint_loaded(self, message: Loaded) -> None:
        """A checkpoint can be used."""

    def checkpoint_refused(self, message: Refused) -> None:
        """A checkpoint cannot be used."""

    def worker_connected(self, worker: Worker) -> None:
        """A worker waits for work."""

    def worker_sent(self, worker: Worker, message: Received) -> None:
        """A worker sent a message."""

    def worker_ended(self, worker: Worker, *, died: bool) -> None:
        """A worker has died, or has ended with its loader; another one takes its place."""

    def process_died(self, kind: str) -> None:
        """A process of this kind, a lane or `loader`, ended although nobody wanted it to."""

    def process_restarted(self, kind: str) -> None:
        """A process of this kind takes the place of one that died."""


class _Loader:
    """A loader process and the connection to it."""

    def __init__(self, process: LoaderProcess, control: socket.socket) -> None:
        self.process, self.control = process, control
        self.stream: MessageStream | None = None
        self.started = time.monotonic()
        self.loading: Loading | None = None
        self.loading_since = self.started
        self.ready = self.forks = False

    def send(self, message: Message, *descriptors: int) -> None:
        """Send a message, with file descriptors. Raises `OSError` if the loader does not take it at once."""
        data = frame(message)
        if socket.send_fds(self.control, [data], list(descriptors)) != len(data):
            raise OSError("the loader takes no messages")

    def end(self) -> None:
        """Kill the process, and with it all workers."""
        self.control.close()
        if self.stream is not None:
            self.stream.close()
        self.process.kill()
        with contextlib.suppress(RuntimeError):  # there may be no more threads; then it is reaped later
            start_thread(self.process.wait)  # which a process that hangs in the kernel may keep waiting

    @property
    def ended(self) -> bool:
        """True if the process has closed its end of the connection."""
        try:
            return self.control.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def launch_loader(descriptor: int, start: LoaderStart) -> LoaderProcess:
    """Start a loader process that inherits the descriptor of its control socket."""
    command = [sys.executable, "-m", "service.engine.loader", str(descriptor), msgspec.json.encode(start).decode()]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # NumPy's threads, with which forking would not be safe
    return subprocess.Popen(command, pass_fds=[descriptor], env=environment)  # noqa: S603  (a program of ours)


class Supervisor:
    """A loader process and the workers that it forks; both are started again when they end."""

    def __init__(self, folders: Sequence[Path], *, device: str, workers: Mapping[str, int], listener: Listener) -> None:
        self.folders, self._device, self._counts, self._listener = list(folders), device, dict(workers), listener
        self.workers: dict[int, Worker] = {}
        self.unit_seconds: dict[str, float] = {}
        self.load_seconds: dict[str, float] = {}
        """Time that loading each checkpoint took, its first computations included."""
        self.loaded, self.ready = asyncio.Event(), asyncio.Event()
        """Set once every checkpoint has been loaded or refused for the first time, and once every lane has a worker."""
        self._numbers = 0
        self._deaths: deque[float] = deque()
        self._crashes: Counter[str] = Counter()  # of loaders, by the checkpoint that they were loading
        self._loader: _Loader | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the loader; the rest follows from its messages."""
        self._start_loader()
        self._run(self._watch())

    def close(self) -> None:
        """End all processes; the listener is told nothing more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._loader is not None:
            self._loader.end()
        for worker in self.workers.values():
            if worker.stream is not None:
                worker.stream.close()

    @property
    def failing(self) -> bool:
        """True if several processes have died within a minute, and no task is to blame."""
        while self._deaths and self._deaths[0] < time.monotonic() - DEATH_SECONDS:
            self._deaths.popleft()
        return len(self._deaths) >= MAX_DEATHS

    def forgive(self, count: int) -> None:
        """Do not count the last deaths, for which a task is to blame."""
        for _ in range(min(count, len(self._deaths))):
            self._deaths.pop()

    def processes(self) -> list[int]:
        """Processes that are alive: the loader, then its workers."""
        workers = [worker.process for worker in self.workers.values() if worker.process is not None]
        return [*([] if self._loader is None else [self._loader.process.pid]), *workers]

    def worker_processes(self) -> list[WorkerProcess]:
        """The same processes with their lanes; a loader that has become the only worker is listed as that."""
        workers = [
            WorkerProcess("+".join(worker.lanes), worker.slot, worker.process)
            for worker in self.workers.values()
            if worker.process is not None
        ]
        if self._loader is None or self._loader.process.pid in {worker.pid for worker in workers}:
            return workers
        return [WorkerProcess("loader", 0, self._loader.process.pid), *workers]

    # The loader.

    def _start_loader(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            start = LoaderStart([str(folder) for folder in self.folders], self._device, os.getpid())
            try:
                process = launch_loader(theirs.fileno(), start)
            except OSError as error:
                ours.close()
                logger.error("the process that loads the models cannot be started: %s", error)
                self._note_death("loader")
                self._run(self._later(self._start_loader))
                return
        self._loader = _Loader(process, ours)
        self._run(self._listen(self._loader))

    async def _listen(self, loader: _Loader) -> None:
        stream = MessageStream(
            lambda message: self._handle(loader, message),
            lambda: self._loader_ended(loader),
        )
        if loader is not self._loader:
            return
        loader.stream = stream
        # a copy, since a transport does not send file descriptors
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=loader.control.dup())

    def _handle(self, loader: _Loader, message: Received) -> None:
        if self._closed or loader is not self._loader:
            return
        match message:
            case Loading():
                loader.loading, loader.loading_since = message, time.monotonic()
            case Loaded():
                self.unit_seconds[message.reference] = message.unit_seconds
                self.load_seconds[message.reference] = time.monotonic() - loader.loading_since
                self._listener.checkpoint_loaded(message)
            case Refused():
                self._listener.checkpoint_refused(message)
            case LoaderReady():
                self._call_workers(loader, forks=message.forks)
            case Forked() if message.number in self.workers:
                worker = self.workers[message.number]
                if message.pid:
                    worker.process = message.pid
                    self._check_in(worker)
            case Exited():
                logger.info("worker %d ended with status %d", message.number, message.status)

    def _call_workers(self, loader: _Loader, *, forks: bool) -> None:
        loader.loading, loader.ready, loader.forks = None, True, forks
        if forks:
            for lane, count in self._counts.items():
                for _ in range(count):
                    if loader is self._loader:  # it may end meanwhile
                        self._fork((lane,))
        else:
            self._fork(tuple(self._counts))
        self.loaded.set()

    def _loader_ended(self, loader: _Loader) -> None:
        """Start everything again, since the workers end with their loader."""
        if self._closed or loader is not self._loader:
            return
        logger.error("the process that loads the models has ended")
        self._note_death("loader")
        if loader.loading is not None:
            reference = loader.loading.reference
            self._crashes[reference] += 1
            if self._crashes[reference] > 1:
                self._give_up(reference, "loading it ended the process twice")
        self._restart(loader)

    def _restart(self, loader: _Loader) -> None:
        self._loader = None
        loader.end()
        self._listener.process_restarted("loader")
        for worker in list(self.workers.values()):
            self._forget(worker, died=not loader.forks)
        if time.monotonic() - loader.started < PAUSE_SECONDS:
            self._run(self._later(self._start_loader))
        else:
            self._start_loader()

    def _give_up(self, reference: str, reason: str) -> None:
        """Load a checkpoint no more."""
        self.folders = [folder for folder in self.folders if reference_of(folder) != reference]
        self._listener.checkpoint_refused(Refused(reference, reason))

    # Workers.

    def _fork(self, lanes: tuple[str, ...]) -> None:
        """Have the loader fork a worker."""
        if self._loader is None or self._closed:
            return
        self._numbers += 1
        taken = {worker.slot for worker in self.workers.values() if worker.lanes == lanes}
        worker = Worker(self._numbers, lanes, next(slot for slot in count() if slot not in taken))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                self._loader.send(Fork(worker.number, NICE[lanes[0]]), theirs.fileno())
            except OSError:
                ours.close()
                self._loader_ended(self._loader)
                return
        self.workers[worker.number] = worker
        self._run(self._connect(worker, ours))

    def _fork_again(self, loader: _Loader | None, lanes: tuple[str, ...]) -> None:
        """Have the loader fork a worker, unless another loader has taken its place, which forks all workers."""
        if loader is self._loader:
            self._listener.process_restarted(lanes[0])
            self._fork(lanes)

    async def _connect(self, worker: Worker, connection: socket.socket) -> None:
        stream = MessageStream(
            lambda message: self._listener.worker_sent(worker, message),
            lambda: self._worker_ended(worker),
        )
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=connection)
        worker.stream = stream
        if worker.number in self.workers:
            self._check_in(worker)
        else:
            stream.close()

    def _check_in(self, worker: Worker) -> None:
        if not worker.ready:
            return
        if {lane for other in self.workers.values() if other.ready for lane in other.lanes} >= set(self._counts):
            self.ready.set()
        self._listener.worker_connected(worker)

    def _worker_ended(self, worker: Worker) -> None:
        if self._closed or worker.number not in self.workers:
            return
        if self._loader is not None and self._loader.ended:  # and the worker with it
            self._loader_ended(self._loader)
            return
        logger.warning("worker %d of the %s lane died", worker.number, worker.lanes[0])
        self._note_death(worker.lanes[0])
        self._forget(worker, died=True)
        if time.monotonic() - worker.started < PAUSE_SECONDS:
            self._run(self._later(self._fork_again, self._loader, worker.lanes))
        else:
            self._fork_again(self._loader, worker.lanes)

    def _forget(self, worker: Worker, *, died: bool) -> None:
        """Have others do what is in the worker's hands."""
        del self.workers[worker.number]
        if worker.stream is not None:
            worker.stream.close()
        self._listener.worker_ended(worker, died=died)

    def kill(self, worker: Worker) -> None:
        """Kill a worker, which has been silent for too long."""
        loader = self._loader
        if loader is None:
            return
        try:
            if not loader.forks:
                raise OSError("the loader is the worker")
            loader.send(Kill(worker.number))
        except OSError:
            self._loader_ended(loader)
        else:
            self._worker_ended(worker)

    # Watching.

    def _note_death(self, kind: str) -> None:
        self._deaths.append(time.monotonic())
        self._listener.process_died(kind)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            if self._loader is not None:
                self._check_loader(self._loader, now)
            for worker in list(self.workers.values()):
                self._check_worker(worker, now)

    def _check_loader(self, loader: _Loader, now: float) -> None:
        """Replace a loader that hangs: at a checkpoint, which is given up, or while it should fork."""
        if not loader.ready and now - loader.loading_since > STALL_SECONDS:
            if loader.loading is not None:
                self._give_up(loader.loading.reference, f"it has not loaded within {STALL_SECONDS:g} seconds")
            self._note_death("loader")
            self._restart(loader)
        elif any(w.process is None and now - w.started > START_SECONDS for w in self.workers.values()):
            logger.error("no worker was forked within %g seconds", START_SECONDS)
            self._loader_ended(loader)

    def _check_worker(self, worker: Worker, now: float) -> None:
        """Kill a worker that has been silent for too long."""
        assignment = next(iter(worker.in_flight.values()), None)
        if assignment is None or worker.number not in self.workers:
            return
        units = max(1.0, sum(task.rows for task in assignment.tasks) / UNIT_SAMPLES)
        unit = units * self.unit_seconds.get(assignment.tasks[0].model, 0.0)
        silence, patience = now - assignment.since, max(SILENT_SECONDS, SILENT_UNITS * unit)
        computes = assignment.progresses(_processor_seconds(worker.process), now, patience)
        if silence > patience and not computes:
            logger.error("worker %d has been silent for %.1f seconds and is killed", worker.number, silence)
            self.kill(worker)

    async def _later(self, function: Callable[..., None], *args: object) -> None:
        await asyncio.sleep(PAUSE_SECONDS)
        if not self._closed:
            function(*args)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _processor_seconds(process: int | None) -> float | None:
    """Processor time of a process in seconds; None if it has ended, or on systems without /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
