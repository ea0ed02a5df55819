"""What waits for the workers of one lane: bounded, and taken in turns by client, then by request."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from service.engine.protocol import Payload
from service.errors import Overloaded

__all__ = ["Lane", "Request", "Task"]

RATE_SECONDS = 30.0
"""Memory of the measured rate of rows, from which `Retry-After` follows."""


@dataclass(eq=False)
class Task:
    """A piece of work for one worker.

    rows:   rows of the networks that it takes
    key:    tasks of equal key may be computed in one batch
    deaths: workers that ended while they computed it
    """

    lane: Lane
    request: Request
    model: str
    payload: Payload
    rows: int
    key: Hashable
    result: asyncio.Future[bytes]
    deaths: int = 0
    started: float | None = None


@dataclass(eq=False)
class Request:
    """The tasks of one client's request, which are admitted together."""

    client: str
    tasks: deque[Task] = field(default_factory=deque)
    admitted: float = field(default_factory=time.monotonic)


class Lane:
    """Tasks that wait for the workers of a lane, or that these compute.

    max_tasks: bound of the tasks
    max_rows:  bound of their rows
    """

    def __init__(self, name: str, *, max_tasks: int, max_rows: int) -> None:
        self.name, self.max_tasks, self.max_rows = name, max_tasks, max_rows
        self.tasks = self.rows = 0
        self._clients: OrderedDict[str, OrderedDict[Request, None]] = OrderedDict()
        self._rate = 0.0  # rows per second, a moving average
        self._measured = time.monotonic()

    def __bool__(self) -> bool:
        """True if a task waits."""
        return bool(self._clients)

    def admit(self, request: Request) -> None:
        """Let a request's tasks wait, all of them. Raises `Overloaded` if there is no room."""
        rows = sum(task.rows for task in request.tasks)
        if self.tasks + len(request.tasks) > self.max_tasks or self.rows + rows > self.max_rows:
            raise Overloaded(
                "The queue is full; try again later.", headers={"Retry-After": str(self.retry_after(rows))}
            )
        self.tasks += len(request.tasks)
        self.rows += rows
        self._clients.setdefault(request.client, OrderedDict())[request] = None

    def repeat(self, tasks: Sequence[Task]) -> None:
        """Let tasks of a worker that has ended wait again, before all others of their requests."""
        for task in reversed(tasks):
            task.request.tasks.appendleft(task)
            self._clients.setdefault(task.request.client, OrderedDict())[task.request] = None
            self._clients.move_to_end(task.request.client, last=False)

    def take(self, max_rows: int) -> list[Task]:
        """The task whose turn it is, and others that may be computed with it, up to `max_rows`.

        A task that was in the hands of a worker that ended is taken alone, so that its death is no other task's.
        """
        taken: list[Task] = []
        rows = 0
        while self._clients and rows < max_rows:
            before = len(taken)
            for client, request in list(self._turns()):
                task = request.tasks[0]
                if taken and (task.key != taken[0].key or task.deaths or rows + task.rows > max_rows):
                    continue
                self._advance(client, request)
                taken.append(task)
                rows += task.rows
                if task.deaths:
                    return taken
                if rows >= max_rows:
                    break
            if len(taken) == before:
                break
        return taken

    def _turns(self) -> Iterator[tuple[str, Request]]:
        """The first request of each client, then their second ones."""
        rounds = [(client, iter(list(requests))) for client, requests in self._clients.items()]
        while rounds:
            left = []
            for client, requests in rounds:
                request = next(requests, None)
                if request is not None:
                    yield client, request
                    left.append((client, requests))
            rounds = left

    def _advance(self, client: str, request: Request) -> None:
        """Take the first task of a request; request and client go to the end of their turns."""
        request.tasks.popleft()
        requests = self._clients[client]
        if request.tasks:
            requests.move_to_end(request)
        else:
            del requests[request]
        if requests:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]

    def release(self, task: Task, *, computed: bool) -> None:
        """Count off a task that has ended."""
        self.tasks -= 1
        self.rows -= task.rows
        if computed:
            now = time.monotonic()
            # the mean of rows over the time since the last task, weighted by that time
            weight = min(1.0, (now - self._measured) / RATE_SECONDS)
            self._rate += (task.rows / max(now - self._measured, 1e-6) - self._rate) * weight
            self._measured = now

    def withdraw(self, request: Request) -> int:
        """Take out what waits of a request that nobody waits for; returns the number of its tasks."""
        requests = self._clients.get(request.client)
        if requests is not None and request in requests:
            del requests[request]
            if not requests:
                del self._clients[request.client]
        count = len(request.tasks)
        for task in request.tasks:
            self.release(task, computed=False)
        request.tasks.clear()
        return count

    def drain(self) -> list[Task]:
        """Take out everything that waits."""
        tasks = [task for requests in self._clients.values() for request in requests for task in request.tasks]
        for task in tasks:
            task.request.tasks.clear()
        self._clients.clear()
        return tasks

    def retry_after(self, rows: int) -> int:
        """Seconds until there is room for so many rows more, by the measured rate; 1 to 60."""
        excess = max(1, self.rows + rows - self.max_rows)
        return round(min(60.0, max(1.0, excess / self._rate if self._rate else 1.0)))
