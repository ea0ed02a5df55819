"""The engine: one model, one compute thread with its helpers, one bounded queue. The event loop never runs torch.

A thread that is free takes, in turn, a batch of light jobs (samples, reconstructions, encodings) and a step of a heavy
one (a log-likelihood), so that light jobs wait for a step at most and several heavy jobs share the machine. A batch is
every waiting job of one kind, up to a row limit: there is no timer, an idle engine adds no wait. Each thread computes
its own steps with one torch thread, so that none waits for another, and results do not depend on how many there are.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import TypeVar, cast, overload
from weakref import WeakKeyDictionary

import torch

from service.delivery import Delivery, Parcel, Waiter, fail
from service.errors import Overloaded
from service.gathering import Gatherer
from service.jobs import Job, Runtime
from service.metrics import Metrics
from service.steps import Queue, Step, Ticket

__all__ = ["Engine"]

Result = TypeVar("Result")
Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


ATTENTIVE_STEPS = 8
"""Steps of heavy jobs that are short after a light one came: where there was one, the next is not far."""


class Engine:
    """Runs jobs on one model.

    name:         of the model, for metrics
    load:         makes the model's runtime; runs in the compute thread, like all torch code, with one torch thread
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
        self._light, self._heavy = Queue(), Queue()
        self._gatherers: WeakKeyDictionary[asyncio.AbstractEventLoop, Gatherer[Ticket]] = WeakKeyDictionary()
        self._attentive = 0  # steps that are still to be short
        self._taking = threading.Lock()
        self._wake = threading.Condition()
        self._idle = self._closed = False
        self._helpers = 0  # called, or at work
        self._heavy_steps = 0  # under way
        self._delivery = Delivery(name, self._release)
        self._jobs = self._rows = 0
        self.runtime: Future[Runtime] = Future()
        """The loaded model, or why it could not be loaded."""
        self._thread = threading.Thread(target=self._work, args=(load,), name=f"engine-{name}", daemon=True)
        self._thread.start()

    @overload
    async def run(self, job: Job[Result], *, owner: Hashable = None) -> Result: ...

    @overload
    async def run(self, job: Job[Result], then: Callable[[Result], Answer], *, owner: Hashable = None) -> Answer: ...

    async def run(
        self, job: Job[Result], then: Callable[[Result], Answer] | None = None, *, owner: Hashable = None
    ) -> Result | Answer:
        """The job's result, or what `then` makes of it in a thread of its own, which is where encoding belongs.

        Jobs of one owner share its turns; a job without one takes turns by itself. Raises `Overloaded` if the queue is
        full; cancelling drops the job at its next step.
        """
        ticket = Ticket(job, Waiter(then), owner)
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
        """Stop after the current steps; jobs still waiting are cancelled."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout)
        self._delivery.close()

    def _admit(self, ticket: Ticket) -> None:
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

    def _queue(self, tickets: list[Ticket]) -> None:
        with self._wake:
            for ticket in tickets:
                (self._light if ticket.job.light else self._heavy).add(ticket)
            if self._idle:
                self._wake.notify()
            elif self._heavy or self._heavy_steps:  # light jobs alone make a larger batch soon
                self._call_helper()
        if self._closed:
            fail([ticket.waiter for ticket in tickets], asyncio.CancelledError())

    def _count(self, jobs: int, rows: int) -> None:
        """Change the queue's size; called with the lock held."""
        self._jobs += jobs
        self._rows += rows

    # From here on, in the compute thread, and in those that help it.

    def _work(self, load: Callable[[], Runtime]) -> None:
        torch.set_num_threads(1)
        try:
            runtime = load()
        except Exception as error:
            self.runtime.set_exception(error)
            return
        self.runtime.set_result(runtime)
        while self._wait():
            self._turn(runtime)
        with self._wake:
            self._wake.wait_for(lambda: not self._helpers)
        fail([ticket.waiter for ticket in (*self._light, *self._heavy)], asyncio.CancelledError())

    def _wait(self) -> bool:
        """Sleep until there is work; False once the engine is closed."""
        with self._wake:
            self._idle = True
            self._wake.wait_for(lambda: self._closed or self._light or self._heavy)
            self._idle = False
            return not self._closed

    def _call_helper(self) -> None:
        """Have one more thread of the pool take a turn if there is work; called with the lock held."""
        if (self._light or self._heavy) and not self._closed and self.runtime.done():
            pool = self.runtime.result().pool
            if self._helpers < pool.size - 1:
                self._helpers += 1
                pool.call(self._help)

    def _help(self) -> None:
        try:
            if not self._closed:
                self._turn(self.runtime.result())
        finally:
            with self._wake:
                self._helpers -= 1
                self._call_helper()
                if self._closed:
                    self._wake.notify()

    @torch.inference_mode()
    def _turn(self, runtime: Runtime) -> None:
        """A batch of light jobs and a step of heavy ones."""
        if step := self._take(runtime, self._light):
            self._compute(step)
            self._attentive = ATTENTIVE_STEPS
        if step := self._take(runtime, self._heavy):
            self._compute(step)
            self._attentive = max(0, self._attentive - 1)

    def _take(self, runtime: Runtime, queue: Queue) -> Step | None:
        """Rows of the oldest job and of what goes with it; what nobody waits for any more is dropped."""
        with self._taking:
            with self._wake:
                for ticket in queue.drop():
                    self._count(-1, -ticket.job.rows)
                    self._observe([ticket], "cancelled")
                short = queue is self._heavy and self._attentive
                max_rows = runtime.short_step if short else runtime.step(queue.rows)
                batch = queue.batch()
            if not batch:
                return None
            step = Step.of(runtime, batch, max_rows)
            with self._wake:
                queue.advance(step)
                self._heavy_steps += not step.light
                self._call_helper()
            return step

    def _compute(self, step: Step) -> None:
        started = time.perf_counter()
        try:
            step.compute()
        except Exception as error:
            logger.exception("%s of model %s failed", step.operation, self.name)
            self._give_up(step, error)
        self.metrics.batch_rows.labels(self.name, step.operation).observe(sum(step.rows.values()))
        with self._wake:
            self._count(0, -sum(step.rows.values()))
            self._heavy_steps -= not step.light
            done = step.end(started)
        computed = [ticket for ticket in done if ticket.failure is None]
        self._observe(computed, "ok")
        self._delivery.send([Parcel(ticket.waiter, ticket.job.result, ticket.size) for ticket in computed])
        for ticket in done:
            if ticket.failure is not None:
                self._observe([ticket], "error")
                self._release(1)
                fail([ticket.waiter], ticket.failure)

    def _give_up(self, step: Step, failure: Exception) -> None:
        """Leave the rest of a step's jobs undone."""
        with self._taking, self._wake:
            for ticket in step.rows:
                self._count(0, -ticket.give_up(failure))

    def _observe(self, tickets: Sequence[Ticket], outcome: str) -> None:
        """Count jobs of one operation that ended alike."""
        if not tickets:
            return
        labels = self.name, tickets[0].job.operation
        self.metrics.jobs_total.labels(*labels, outcome).inc(len(tickets))
        if outcome == "ok":
            wait_seconds = self.metrics.job_wait_seconds.labels(*labels)
            compute_seconds = self.metrics.job_compute_seconds.labels(*labels)
            now = time.perf_counter()
            for ticket in tickets:
                started = ticket.started or ticket.admitted
                wait_seconds.observe(started - ticket.admitted)
                compute_seconds.observe(now - started)  # steps of a job may run beside each other
