"""What waits for the workers of a lane: bounded, and taken in turns by client, then by request."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from service.engine.protocol import Payload
from service.errors import Overloaded

__all__ = ["Lane", "Request", "Task"]

RATE_SECONDS = 30.0
"""Memory of the measured rate of rows, from which `Retry-After` follows."""
MAX_RETRY_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class Task:
    """A piece of work for one worker.

    rows:   rows of the networks that it takes
    key:    tasks of equal key may be computed in one batch
    deaths: workers that ended while they computed it
    """

    request: Request
    model: str
    payload: Payload
    rows: int
    key: Hashable
    result: asyncio.Future[bytes]
    admitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    deaths: int = 0

    def release(self, *, computed: bool) -> None:
        """Give back its room in the lane; called once, when it has been computed, has failed or was withdrawn."""
        self.request.release(self.rows, computed=computed)


class Request:
    """Room in a lane for one client's rows, which tasks fill.

    The room that no task has taken is given back at the end of a `with` block; that of a task when it ends.
    """

    __slots__ = ("_inside", "_open", "_reserved", "client", "lane", "waiting")

    def __init__(self, lane: Lane, client: str, rows: int) -> None:
        self.lane, self.client = lane, client
        self.waiting: deque[Task] = deque()
        self._reserved, self._open, self._inside = rows, 0, False

    def __enter__(self) -> Self:
        self._inside = True
        return self

    def __exit__(self, *_: object) -> None:
        self._inside = False
        self.lane.rows -= self._reserved
        self._reserved = 0
        self._leave()

    def add(self, tasks: Sequence[Task], *, first: bool = False) -> None:
        """Let tasks wait in the room that was reserved for them, before all others of the lane with `first`."""
        rows = sum(task.rows for task in tasks)
        if self._inside:
            self._reserved -= rows
        else:  # the client has left, but others wait for the same answer
            self.lane.rows += rows
            self.lane.requests += not self._open
        self._open += len(tasks)
        if first:
            self.lane.put_first(tasks)
        else:
            self.waiting.extend(tasks)
            self.lane.wait(self)

    def withdraw(self, tasks: Sequence[Task]) -> None:
        """Take out those of the tasks that still wait, since nobody wants their results."""
        unwanted = set(tasks)
        withdrawn = [task for task in self.waiting if task in unwanted]
        if withdrawn:
            self.waiting = deque(task for task in self.waiting if task not in unwanted)
            self.lane.forget(self)
        for task in withdrawn:
            task.release(computed=False)

    def release(self, rows: int, *, computed: bool) -> None:
        """Give back the room of a task."""
        self.lane.rows -= rows
        self._open -= 1
        if computed:
            self.lane.measure(rows)
        self._leave()

    def _leave(self) -> None:
        if not self._inside and not self._open:
            self.lane.requests -= 1


class Lane:
    """Requests that wait for the workers of a lane, or that these compute.

    max_requests, max_rows: bounds of the requests and of their rows
    """

    def __init__(self, name: str, *, max_requests: int, max_rows: int) -> None:
        self.name, self.max_requests, self.max_rows = name, max_requests, max_rows
        self.requests = self.rows = 0
        self._turns: OrderedDict[str, OrderedDict[Request, None]] = OrderedDict()
        self._rate = 0.0  # rows per second, a moving average
        self._measured = time.monotonic()

    def __bool__(self) -> bool:
        """True if a task waits."""
        return bool(self._turns)

    def admit(self, client: str, rows: int) -> Request:
        """Reserve room for a request. Raises `Overloaded` if there is none."""
        if self.requests >= self.max_requests or self.rows + rows > self.max_rows:
            raise Overloaded(
                f"{self.requests} requests with {self.rows} network rows wait or are being computed; "
                "this one finds no room.",
                headers={"Retry-After": str(self.retry_after(rows))},
            )
        self.requests += 1
        self.rows += rows
        return Request(self, client, rows)

    def wait(self, request: Request) -> None:
        """Let a request take turns, after those that wait."""
        self._turns.setdefault(request.client, OrderedDict())[request] = None

    def forget(self, request: Request) -> None:
        """Let a request that has no waiting task left take no more turns."""
        requests = self._turns.get(request.client)
        if not request.waiting and requests is not None:
            requests.pop(request, None)
            if not requests:
                del self._turns[request.client]

    def put_first(self, tasks: Sequence[Task]) -> None:
        """Let tasks wait before all others."""
        for task in reversed(tasks):
            request = task.request
            request.waiting.appendleft(task)
            self.wait(request)
            self._turns[request.client].move_to_end(request, last=False)
            self._turns.move_to_end(request.client, last=False)

    def take(self, max_rows: Callable[[str], int]) -> list[Task]:
        """The task whose turn it is, and others that may be computed with it, up to `max_rows` rows of their model.

        A task that was in the hands of a worker that ended is taken alone, so that it can end no other task's worker.
        """
        taken: list[Task] = []
        rows = most = before = 0
        while self._turns and (not taken or len(taken) > before):
            before = len(taken)
            for request in self._in_turn():
                task = request.waiting[0]
                if not taken:
                    most = max_rows(task.model)
                elif task.key != taken[0].key or task.deaths or rows + task.rows > most:
                    continue
                self._advance(request)
                taken.append(task)
                rows += task.rows
                if task.deaths or rows >= most:
                    return taken
        return taken

    def drain(self) -> list[Task]:
        """Take out everything that waits."""
        tasks = [task for requests in self._turns.values() for request in requests for task in request.waiting]
        for task in tasks:
            task.request.waiting.clear()
        self._turns.clear()
        return tasks

    def measure(self, rows: int) -> None:
        """Note that so many rows were computed."""
        now = time.monotonic()
        elapsed = max(now - self._measured, 1e-6)
        self._rate += (rows / elapsed - self._rate) * min(1.0, elapsed / RATE_SECONDS)
        self._measured = now

    def retry_after(self, rows: int) -> int:
        """Seconds until there is room for so many rows more, by the measured rate; 1 to 60."""
        excess = max(1, self.rows + rows - self.max_rows)
        return round(min(MAX_RETRY_SECONDS, max(1.0, excess / self._rate if self._rate else 1.0)))

    def _in_turn(self) -> Iterator[Request]:
        """The first request of each client, then their second ones; the turns may change meanwhile."""
        rounds = [list(requests) for requests in self._turns.values()]
        for place in range(max(map(len, rounds), default=0)):
            yield from (requests[place] for requests in rounds if place < len(requests))

    def _advance(self, request: Request) -> None:
        """Take the first task of a request; request and client go to the end of their turns."""
        request.waiting.popleft()
        requests = self._turns[request.client]
        if request.waiting:
            requests.move_to_end(request)
        else:
            del requests[request]
        if requests:
            self._turns.move_to_end(request.client)
        else:
            del self._turns[request.client]
