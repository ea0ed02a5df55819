"""Jobs in a queue, and the steps in which they are computed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from service.delivery import Waiter
from service.jobs import AnyJob, Compute, Runtime

__all__ = ["Queue", "Step", "Ticket"]


class Ticket:
    """A job on its way through the engine, and who waits for it.

    owner:     of this job and perhaps of others
    size:      rows that the job came with
    cancelled: whether nobody waits any more
    dropped:   whether it was therefore taken out of the queue, with some of its rows left
    failure:   of one of its steps
    steps:     of it, under way
    """

    def __init__(self, job: AnyJob, waiter: Waiter, owner: Hashable = None) -> None:
        self.job, self.waiter, self.size = job, waiter, job.rows
        self.owner = object() if owner is None else owner  # not itself, which would have it wait for the collector
        self.cancelled = self.dropped = False
        self.failure: Exception | None = None
        self.steps = 0
        self.admitted = time.perf_counter()
        self.started: float | None = None

    @property
    def done(self) -> bool:
        """Whether all that will be computed of it is."""
        return not (self.job.rows or self.steps or self.dropped)

    def goes_with(self, other: Ticket) -> bool:
        """Whether rows of both may be computed together."""
        return type(self.job) is type(other.job) and bool(self.job.key == other.job.key)

    def give_up(self, failure: Exception) -> int:
        """Leave the rest undone: the number of rows that nobody has taken, and nobody will."""
        if self.dropped:
            return 0
        rows, self.job.rows, self.failure = self.job.rows, 0, failure
        return rows


@dataclass
class Step:
    """Rows of some jobs, which a thread has taken to compute them.

    compute: does it
    rows:    how many of each job
    """

    compute: Compute
    rows: dict[Ticket, int]

    @classmethod
    def of(cls, runtime: Runtime, batch: Sequence[Ticket], max_rows: int) -> Step:
        """Up to so many rows of a batch, in which there may be no room for some of its jobs.

        If they cannot even be taken, computing what was taken fails, or the first job if nothing was.
        """
        before = [ticket.job.rows for ticket in batch]
        try:
            compute = type(batch[0].job).take(runtime, [ticket.job for ticket in batch], max_rows)
        except Exception as error:
            compute, failed = _raising(error), True
        else:
            failed = False
        taken = {ticket: rows - ticket.job.rows for ticket, rows in zip(batch, before, strict=True)}
        step = cls(compute, {ticket: rows for ticket, rows in taken.items() if rows or (failed and ticket is batch[0])})
        for ticket in step.rows:
            ticket.steps += 1
        return step

    @property
    def operation(self) -> str:
        """Of all its jobs."""
        return next(iter(self.rows)).job.operation

    @property
    def light(self) -> bool:
        """Whether its jobs are."""
        return next(iter(self.rows)).job.light

    def end(self, started: float) -> list[Ticket]:
        """Note that it was computed, since that time; the jobs that are done with it."""
        for ticket in self.rows:
            ticket.steps -= 1
            ticket.started = min(started, ticket.started or started)
        return [ticket for ticket in self.rows if ticket.done]


class Queue:
    """Jobs that wait, each owner's in a line of its own: owners take turns, however many jobs they have."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, list[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Ticket]:
        """The first job of every line, then the second ones."""
        for places in zip_longest(*self._lines.values()):
            yield from (ticket for ticket in places if ticket is not None)

    @property
    def rows(self) -> int:
        """Rows that nobody has taken."""
        return sum(ticket.job.rows for ticket in self)

    def add(self, ticket: Ticket) -> None:
        """Put a job at the end of its owner's line."""
        self._lines.setdefault(ticket.owner, []).append(ticket)

    def drop(self) -> list[Ticket]:
        """Take out what failed meanwhile, and what was cancelled, which is returned."""
        over = [ticket for ticket in self if ticket.cancelled or not ticket.job.rows]
        dropped = [ticket for ticket in over if ticket.job.rows]
        for ticket in over:
            self._remove(ticket)
        for ticket in dropped:
            ticket.dropped = True
        return dropped

    def batch(self) -> list[Ticket]:
        """The first job, and those that go with it."""
        first = next(iter(self), None)
        return [] if first is None else [ticket for ticket in self if ticket.goes_with(first)]

    def advance(self, step: Step) -> None:
        """Take out what has no rows left; the owners of what has had its turn go to the end."""
        for ticket in step.rows:
            self._remove(ticket)
            if ticket.job.rows:
                self.add(ticket)
            if ticket.owner in self._lines:
                self._lines.move_to_end(ticket.owner)

    def _remove(self, ticket: Ticket) -> None:
        line = self._lines[ticket.owner]
        line.remove(ticket)
        if not line:
            del self._lines[ticket.owner]


def _raising(error: Exception) -> Compute:
    def compute() -> None:
        raise error

    return compute
