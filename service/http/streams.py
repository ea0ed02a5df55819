"""Answers in parts: a line or an event per image, each sent when it is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import DeadlineExceeded, Overloaded
from service.http.negotiation import qualities
from service.http.problems import error_response

__all__ = [
    "STREAM_CONTENT",
    "WINDOW",
    "Event",
    "EventStream",
    "Job",
    "StreamFormat",
    "begin",
    "run_jobs",
    "stream_format",
    "wants_stream",
]

WINDOW = 64
"""Images of a stream that are computed, or whose results wait to be sent, at once."""
STREAM_PATHS = {"/loglik", "/novelty"}
ROOM_SECONDS = 0.1
"""Time between two tries of a job that finds the queue full."""

Item = TypeVar("Item")
EventName = Literal["progress", "score", "done", "error"]


class StreamFormat(Enum):
    """How a stream is written, by its media type."""

    NDJSON = "application/x-ndjson"
    SSE = "text/event-stream"


STREAM_CONTENT: dict[str, Any] = {format_.value: {"schema": {"type": "string"}} for format_ in StreamFormat}
"""OpenAPI's description of answers that are streams."""


@dataclass(frozen=True)
class Event:
    """A part of a stream.

    body: a JSON object
    """

    name: EventName
    body: bytes

    @classmethod
    def of_image(cls, name: EventName, index: int, file: str, result: bytes) -> Event:
        """An event that gives a result, a JSON object, for one image."""
        return cls(name, msgspec.json.encode({"index": index, "file": file})[:-1] + b"," + result[1:])

    @classmethod
    def of(cls, name: EventName, **fields: Any) -> Event:
        """An event with these fields."""
        return cls(name, msgspec.json.encode(fields))

    def encode(self, format_: StreamFormat) -> bytes:
        """The event as a line, which names it in the field `event`, or as a server-sent event."""
        if format_ is StreamFormat.SSE:
            return b"event: %b\ndata: %b\n\n" % (self.name.encode(), self.body)
        return b'{"event":"%b",%b\n' % (self.name.encode(), self.body[1:])


@dataclass(frozen=True)
class Job:
    """Work on some images of a stream, which tells their events to the function that it is given."""

    images: int
    run: Callable[[Callable[[Event], None]], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class _Finished:
    job: Job


def wants_stream(scope: Scope) -> bool:
    """True if the answer to a request is a stream."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return path in STREAM_PATHS and _format_of(dict(scope["headers"])) is not None


def stream_format(request: Request) -> StreamFormat | None:
    """The format of a stream that `Accept` asks for; None if it prefers one answer."""
    return _format_of(dict(request.scope["headers"]))


def _format_of(headers: Mapping[bytes, bytes]) -> StreamFormat | None:
    """The first format of `Accept`, unless a plain answer has a higher quality."""
    accept = headers.get(b"accept", b"").decode("latin-1").lower()
    if "ndjson" not in accept and "event-stream" not in accept:  # most of the time
        return None
    wanted = qualities(accept)
    offers = [format_ for format_ in StreamFormat if wanted.get(format_.value, 0.0) > 0]
    best = max(offers, key=lambda format_: wanted[format_.value], default=None)
    if best is None or wanted.get("application/json", 0.0) > wanted[best.value]:
        return None
    return best


async def begin(items: AsyncGenerator[Item]) -> AsyncGenerator[Item]:
    """All items, once the first of them, which must exist, has come; an error before that is raised here."""
    first = await anext(items)

    async def all_items() -> AsyncGenerator[Item]:
        async with aclosing(items):
            yield first
            async for item in items:
                yield item

    return all_items()


async def run_jobs(jobs: AsyncGenerator[Job], *, seconds: float) -> AsyncGenerator[Event]:
    """Events of all jobs, as they come. Jobs of at most `WINDOW` images run, or have events that nobody has taken yet.

    A job that finds the queue full waits for room. An error of `jobs` is raised once those before it are done; the
    first error of a job ends all others, as does closing the generator.

    seconds: that a job may take, from the time that it enters the window; then it raises `DeadlineExceeded`
    """
    events: asyncio.Queue[Event | _Finished | Exception] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()
    in_hand, failure = 0, None
    more = True

    async def run(job: Job) -> None:
        try:
            async with asyncio.timeout(seconds):
                await _with_room(job, events.put_nowait)
        except TimeoutError:
            events.put_nowait(DeadlineExceeded(f"No result for an image within {seconds:g} seconds; try again later."))
        except Exception as error:
            events.put_nowait(error)
        else:
            events.put_nowait(_Finished(job))

    try:
        while True:
            while more and in_hand < WINDOW:
                try:
                    job = await anext(jobs, None)
                except Exception as error:  # what came before it is still answered
                    job, failure = None, error
                if job is None:
                    more = False
                    break
                in_hand += job.images
                task = asyncio.create_task(run(job))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if not in_hand and failure is not None:
                raise failure
            if not in_hand:
                return
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, _Finished):
                in_hand -= event.job.images
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await jobs.aclose()


async def _with_room(job: Job, tell: Callable[[Event], None]) -> None:
    while True:
        try:
            return await job.run(tell)
        except Overloaded:
            await asyncio.sleep(ROOM_SECONDS)


class EventStream(Response):
    """The answer that sends events as they come, and an error as the last of them.

    The next event is taken once the server has passed on the one before, so that a client that reads slowly slows the
    computation down.
    """

    def __init__(self, events: AsyncGenerator[Event], format_: StreamFormat, headers: Mapping[str, str]) -> None:
        self.events, self.format = events, format_
        self.status_code, self.background, self.media_type = 200, None, format_.value
        self.init_headers({**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.body = b""  # set late, or it would be announced by a Content-Length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send all events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            try:
                async for event in self.events:
                    await self._send(send, event)
            finally:
                await self.events.aclose()
        except Exception as error:
            await self._send(send, Event("error", bytes(error_response(scope, error).body)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, event: Event) -> None:
        await send({"type": "http.response.body", "body": event.encode(self.format), "more_body": True})
