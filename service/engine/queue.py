"""What waits for the workers of a lane: bounded, and taken in turns by client, then by request."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from service.engine.protocol import Payload
from service.errors import Overloaded

__all__ = ["Lane", "Request", "Task", "Timing"]

SPEED_SECONDS = 10.0
"""Memory of the measured speed, from which the expected wait and `Retry-After` follow."""
MAX_RETRY_SECONDS = 60.0


class Timing(NamedTuple):
    """When a batch began to be computed, when its rendering began, and when it ended, by `time.monotonic`."""

    began: float
    rendering: float
    ended: float


@dataclass(eq=False, slots=True)
class Task:
    """A piece of work for one worker.

    rows:   rows of the networks that it takes
    key:    tasks of equal key may be computed in one batch
    deaths: workers that ended while they computed it
    timing: of the batch that it was computed in
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
    timing: Timing | None = None

    def release(self, *, computed: bool) -> None:
        """Give back its room in the lane; called once, when it has been computed, has failed or was withdrawn."""
        self.request.release(self.rows, computed=computed)


class Request:
    """Room in a lane for one client's rows, which tasks fill.

    The room that no task has taken is given back at the end of a `with` block; that of a task when it ends.
    """

    __slots__ = ("_inside", "_open", "_reserved", "client", "lane", "rows", "seconds_per_row", "waiting")

    def __init__(self, lane: Lane, client: str, rows: int, seconds_per_row: float) -> None:
        self.lane, self.client, self.seconds_per_row = lane, client, seconds_per_row
        self.rows = 0  # that have still to be computed
        self.waiting: deque[Task] = deque()
        self._reserved, self._open, self._inside = rows, 0, False

    def __enter__(self) -> Self:
        self._inside = True
        return self

    def __exit__(self, *_: object) -> None:
        self._inside = False
        self.lane.change(self, -self._reserved)
        self._reserved = 0
        self._leave()

    def add(self, tasks: Sequence[Task], *, first: bool = False) -> None:
        """Let tasks wait in the room that was reserved for them, before all others of the lane with `first`."""
        rows = sum(task.rows for task in tasks)
        if self._inside and not first:
            self._reserved -= rows
        else:  # the last step of an answer; or the client has left, but others wait for the same answer
            self.lane.change(self, rows)
        if not self._inside and not self._open:
            self.lane.enter(self)
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
        if computed:
            self.lane.measure(rows * self.seconds_per_row)
        self.lane.change(self, -rows)
        self._open -= 1
        self._leave()

    def _leave(self) -> None:
        if not self._inside and not self._open:
            self.lane.leave(self)


class Lane:
    """Requests that wait for the workers of a lane, or that these compute.

    max_requests, max_rows: bounds of the requests and of their rows
    max_seconds:            bound of the time that they are expected to take
    """

    def __init__(self, name: str, *, max_requests: int, max_rows: int, max_seconds: float = math.inf) -> None:
        self.name, self.max_requests, self.max_rows, self.max_seconds = name, max_requests, max_rows, max_seconds
        self.requests = self.rows = 0
        self._live: set[Request] = set()
        self._seconds = 0.0  # that all rows would take a single worker without other work
        self._turns: OrderedDict[str, OrderedDict[Request, None]] = OrderedDict()
        self._speed = 0.0  # such seconds per second of the clock, a moving average; 0 before it is known
        self._measured = time.monotonic()

    def __bool__(self) -> bool:
        """True if a task waits."""
        return bool(self._turns)

    def admit(self, client: str, rows: int, seconds_per_row: float = 0.0) -> Request:
        """Reserve room for a request. Raises `Overloaded` if there is none, or if it could not be computed in time.

        seconds_per_row: time that a worker without other work takes for a row
        """
        request = Request(self, client, rows, seconds_per_row)
        wait = self._expected(rows * seconds_per_row)  # with turns, a short request does not wait for a long one's end
        full = self.requests >= self.max_requests or self.rows + rows > self.max_rows
        if full or (self.requests and wait > self.max_seconds):
            raise Overloaded(
                f"{self.requests} requests with {self.rows} network rows wait or are being computed; "
                "this one finds no room.",
                headers={"Retry-After": str(self._retry_after(rows, wait))},
            )
        if not self.requests:
            self._measured = time.monotonic()  # idle time does not count
        self.enter(request)
        self.change(request, rows)
        return request

    def open(self, client: str, seconds_per_row: float) -> Request:
        """A request whose tasks come one after another: their rows count while they are there, none are reserved.

        Raises `Overloaded` if there are too many requests. It is not to be used in a `with` block.
        """
        if self.requests >= self.max_requests:
            raise Overloaded(f"{self.requests} requests wait or are being computed; this one finds no room.")
        return Request(self, client, 0, seconds_per_row)

    def check_room(self, rows: int) -> None:
        """Raise `Overloaded` if the lane has no room for this number of further rows."""
        if self.rows + rows > self.max_rows:
            raise Overloaded(f"{self.rows} network rows wait or are being computed; {rows} more find no room.")

    def enter(self, request: Request) -> None:
        """Count a request."""
        self.requests += 1
        self._live.add(request)

    def leave(self, request: Request) -> None:
        """Count off a request of which nothing is left."""
        self.requests -= 1
        self._live.discard(request)

    def change(self, request: Request, rows: int) -> None:
        """Add rows of a request to what there is, or take them away if `rows` is negative."""
        self.rows += rows
        request.rows += rows
        self._seconds += rows * request.seconds_per_row

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

    def remove(self, model: str) -> list[Task]:
        """Take out everything that waits for a model."""
        removed: list[Task] = []
        for request in [request for requests in self._turns.values() for request in requests]:
            removed += (task for task in request.waiting if task.model == model)
            request.waiting = deque(task for task in request.waiting if task.model != model)
            self.forget(request)
        return removed

    def drain(self) -> list[Task]:
        """Take out everything that waits."""
        tasks = [task for requests in self._turns.values() for request in requests for task in request.waiting]
        for task in tasks:
            task.request.waiting.clear()
        self._turns.clear()
        return tasks

    def measure(self, seconds: float) -> None:
        """Note that work was computed which takes a single worker `seconds` if it has no other work."""
        now = time.monotonic()
        elapsed = max(now - self._measured, 1e-6)
        speed = self._speed or seconds / elapsed
        self._speed = speed + (seconds / elapsed - speed) * min(1.0, elapsed / SPEED_SECONDS)
        self._measured = now

    @property
    def expected_seconds(self) -> float:
        """Time until all that is here now would be done; 0 before the speed is known."""
        return max(0.0, self._seconds / self._speed) if self._speed else 0.0

    def _expected(self, seconds: float) -> float:
        """Time until a new request with `seconds` of work would be done; 0 before the speed is known.

        Requests take turns, so it waits for no more of another request than it has work itself.
        """
        if not self._speed:
            return 0.0
        longest = (self._seconds + seconds) / self._speed
        if longest <= self.max_seconds:  # most of the time; the sum below would take longer than all else here
            return longest
        others = sum(min(seconds, request.rows * request.seconds_per_row) for request in self._live)
        return (others + seconds) / self._speed

    def _retry_after(self, rows: int, wait: float) -> int:
        """Seconds, 1 to 60, until a refused request of `rows` rows would be admitted; `wait` is its expected time."""
        excess = (self.rows + rows - self.max_rows) / max(1, self.rows)  # as a share of what is there
        room = excess * self._seconds / self._speed if self._speed else 0.0
        return round(min(MAX_RETRY_SECONDS, max(1.0, wait - self.max_seconds, room)))

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
