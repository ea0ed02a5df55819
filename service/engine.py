"""The engine: one model, one compute thread with its helpers, one bounded queue. The event loop never runs torch.

When the thread is free it takes, in turn, a batch of light jobs (samples, reconstructions, encodings) and one chunk of
a heavy one (a log-likelihood), so that light jobs wait for a chunk at most and several heavy jobs share the machine. A
batch is every waiting job of one kind, up to a row limit: there is no timer, an idle engine adds no wait.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar, cast, overload
from weakref import WeakKeyDictionary

import torch

from service.delivery import Delivery, Parcel, Waiter, fail
from service.errors import Overloaded
from service.gathering import Gatherer
from service.jobs import AnyJob, Job, Runtime
from service.metrics import Metrics

__all__ = ["Engine"]

Result = TypeVar("Result")
Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


ATTENTIVE_CHUNKS = 8
"""Chunks of heavy jobs that are short after a light one came: where there was one, the next is not far."""


class Engine:
    """Runs jobs on one model.

    name:         of the model, for metrics
    load:         makes the model's runtime; runs in the compute thread, like all torch code
    queue_length: jobs that may wait, run or be rendered
    queued_rows:  rows that may wait or run
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Runtime],
        *,
        queue_length: int,
        queued_rows: int,
        metrics: Metrics,
    ) -> None:
        self.name, self.metrics = name, metrics
        metrics.queue_jobs.labels(name).set_function(lambda: self._jobs)
        metrics.queue_rows.labels(name).set_function(lambda: self._rows)
        self._queue_length, self._queued_rows = queue_length, queued_rows
        self._light: deque[_Ticket] = deque()
        self._heavy: deque[_Ticket] = deque()
        self._gatherers: WeakKeyDictionary[asyncio.AbstractEventLoop, Gatherer[_Ticket]] = WeakKeyDictionary()
        self._wake = threading.Condition()
        self._closed = False
        self._delivery = Delivery(name, self._release)
        self._jobs = self._rows = 0
        self.runtime: Future[Runtime] = Future()
        """The loaded model, or why it could not be loaded."""
        self._thread = threading.Thread(target=self._work, args=(load,), name=f"engine-{name}", daemon=True)
        self._thread.start()

    @overload
    async def run(self, job: Job[Result]) -> Result: ...

    @overload
    async def run(self, job: Job[Result], then: Callable[[Result], Answer]) -> Answer: ...

    async def run(self, job: Job[Result], then: Callable[[Result], Answer] | None = None) -> Result | Answer:
        """The job's result, or what `then` makes of it in a thread of its own, which is where encoding belongs.

        Raises `Overloaded` if the queue is full; cancelling drops the job at its next chunk.
        """
        ticket = _Ticket(job, Waiter(then))
        self._admit(ticket)
        try:
            return cast("Result | Answer", await ticket.waiter.future)
        finally:
            ticket.cancelled = True  # no matter to one that was answered

    async def render(self, make: Callable[[], Answer]) -> Answer:
        """What `make` returns, in a thread that renders; it counts as a job.

        Raises `Overloaded` if the queue is full.
        """
        waiter = Waiter(None)
        self._reserve(rows=0)
        self._delivery.send([Parcel(waiter, make, rows=1)])
        return cast("Answer", await waiter.future)

    def close(self, timeout: float) -> None:
        """Stop after the current chunk; jobs still waiting are cancelled."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout)
        self._delivery.close()

    def _admit(self, ticket: _Ticket) -> None:
        self._reserve(ticket.job.rows)
        loop = ticket.waiter.loop
        if loop not in self._gatherers:
            self._gatherers[loop] = Gatherer(self._queue)
        self._gatherers[loop].add(ticket)

    def _reserve(self, rows: int) -> None:
        """Count one job more, of so many rows, if there is room for it."""
        with self._wake:
            full = self._jobs >= self._queue_length or self._rows + rows > self._queued_rows
            if full or self._closed:
                raise Overloaded(f"{self._jobs} jobs with {self._rows} rows wait for this model; try again shortly")
            self._count(1, rows)

    def _release(self, jobs: int) -> None:
        """Count off jobs whose answers are on their way."""
        with self._wake:
            self._count(-jobs, 0)

    def _queue(self, tickets: list[_Ticket]) -> None:
        with self._wake:
            for ticket in tickets:
                (self._light if ticket.job.light else self._heavy).append(ticket)
            self._wake.notify()
        if self._closed:
            fail([ticket.waiter for ticket in tickets], asyncio.CancelledError())

    def _count(self, jobs: int, rows: int) -> None:
        """Change the queue's size; called with the lock held."""
        self._jobs += jobs
        self._rows += rows

    # From here on, in the compute thread.

    def _work(self, load: Callable[[], Runtime]) -> None:
        try:
            runtime = load()
        except Exception as error:
            self.runtime.set_exception(error)
            return
        self.runtime.set_result(runtime)
        with torch.inference_mode():
            attentive = 0
            while self._wait():
                if batch := self._take(self._light, runtime.chunk_rows):
                    self._advance(runtime, self._light, batch, runtime.chunk_rows)
                    attentive = ATTENTIVE_CHUNKS
                max_rows = runtime.short_chunk_rows if attentive else runtime.chunk_rows
                if batch := self._take(self._heavy, max_rows):
                    self._advance(runtime, self._heavy, batch, max_rows)
                    attentive = max(0, attentive - 1)
        fail([ticket.waiter for ticket in (*self._light, *self._heavy)], asyncio.CancelledError())

    def _wait(self) -> bool:
        """Sleep until there is work; False once the engine is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._light or self._heavy)
            return not self._closed

    def _take(self, queue: deque[_Ticket], max_rows: int) -> list[_Ticket]:
        """Remove the oldest job and what can go with it up to `max_rows`, and drop what nobody waits for any more."""
        with self._wake:
            live = [ticket for ticket in queue if not ticket.cancelled]
            for ticket in queue:
                if ticket.cancelled:
                    self._count(-1, -ticket.job.rows)
                    self._observe([ticket], "cancelled")
            batch: list[_Ticket] = []
            rows = 0
            queue.clear()
            for ticket in live:
                if rows < max_rows and (not batch or ticket.goes_with(batch[0])):
                    batch.append(ticket)
                    rows += ticket.job.rows
                else:
                    queue.append(ticket)
            return batch

    def _advance(self, runtime: Runtime, queue: deque[_Ticket], batch: list[_Ticket], max_rows: int) -> None:
        jobs = [ticket.job for ticket in batch]
        operation, before = jobs[0].operation, [job.rows for job in jobs]
        started = time.perf_counter()
        failure: Exception | None = None
        try:
            type(jobs[0]).advance(runtime, jobs, max_rows)
        except Exception as error:
            logger.exception("%s of model %s failed", operation, self.name)
            failure = error
        seconds = time.perf_counter() - started
        advanced: list[_Ticket] = []
        untouched: list[_Ticket] = []  # for which there was no room
        for ticket, rows in zip(batch, before, strict=True):
            (advanced if failure or ticket.job.rows < rows else untouched).append(ticket)
        computed = sum(before) - sum(job.rows for job in jobs)
        self.metrics.batch_rows.labels(self.name, operation).observe(computed)
        done = [ticket for ticket in advanced if failure or not ticket.job.rows]
        left = [ticket for ticket in advanced if not failure and ticket.job.rows]
        for ticket in advanced:
            ticket.started = ticket.started or started
            ticket.compute_seconds += seconds
        with self._wake:
            queue.extendleft(reversed(untouched))
            # what has had its turn goes to the back, which shares the machine fairly
            queue.extend(left)
            self._count(0, -computed - sum(ticket.job.rows for ticket in done))
        self._observe(done, "error" if failure else "ok")
        if failure:
            self._release(len(done))
            fail([ticket.waiter for ticket in done], failure)
        else:
            self._delivery.send([Parcel(ticket.waiter, ticket.job.result, ticket.rows) for ticket in done])

    def _observe(self, tickets: Sequence[_Ticket], outcome: str) -> None:
        """Count jobs of one operation that ended alike."""
        if not tickets:
            return
        labels = self.name, tickets[0].job.operation
        self.metrics.jobs_total.labels(*labels, outcome).inc(len(tickets))
        if outcome == "ok":
            wait_seconds = self.metrics.job_wait_seconds.labels(*labels)
            compute_seconds = self.metrics.job_compute_seconds.labels(*labels)
            for ticket in tickets:
                wait_seconds.observe((ticket.started or ticket.admitted) - ticket.admitted)
                compute_seconds.observe(ticket.compute_seconds)


class _Ticket:
    """A job in the queue, and who waits for it."""

    def __init__(self, job: AnyJob, waiter: Waiter) -> None:
        self.job, self.waiter, self.rows = job, waiter, job.rows
        self.cancelled = False
        self.admitted = time.perf_counter()
        self.started: float | None = None
        self.compute_seconds = 0.0

    def goes_with(self, other: _Ticket) -> bool:
        return type(self.job) is type(other.job) and bool(self.job.key == other.job.key)
