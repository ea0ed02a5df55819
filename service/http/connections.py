"""HTTP/1.1 connections with bounds: bytes and seconds of a head, idle time, unread answers, number of connections.

uvicorn waits without limit for the rest of a head and keeps heads of any size. When its own limit on concurrency is
reached, it refuses health checks too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import BadRequest, HeadersTooLarge, HeadTimeout, Problem
from service.metrics import Metrics
from service.settings import Settings

__all__ = ["OVER_LIMIT", "BoundedConnection", "ConnectionBounds"]

OVER_LIMIT = "over_connection_limit"
"""Key of `scope["state"]` on connections beyond the limit, where only health checks are answered."""
RESERVED_CONNECTIONS = 256  # beyond the limit, for health checks; under a flood the oldest idle one makes room
RESERVED_HEAD_SECONDS = 2.0
MAX_PIPELINED = 8  # requests of one connection that wait for the one before
LINGER_SECONDS = 5.0  # for the rest of a body whose request was answered before its end

logger = logging.getLogger(__name__)


@dataclass
class ConnectionBounds:
    """What the connections of a server may take, and what they share.

    head_bytes:         request line and headers; past it the answer is 431
    head_seconds:       from a connection's start, or a request's first byte, to the end of its headers; then 408
    keep_alive_seconds: between two requests; then the connection is closed
    send_seconds:       without any of an answer being taken; then the connection is dropped
    max_connections:    further ones displace the longest idle connection, or are answered 503
    draining:           True once the service stops: each connection is closed after the answer under way
    """

    head_bytes: int
    head_seconds: float
    keep_alive_seconds: float
    send_seconds: float
    max_connections: int
    metrics: Metrics
    draining: bool = False

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics) -> ConnectionBounds:
        """The bounds that the settings name."""
        return cls(
            head_bytes=settings.max_header_bytes,
            head_seconds=settings.header_seconds,
            keep_alive_seconds=settings.keep_alive_seconds,
            send_seconds=settings.send_seconds,
            max_connections=settings.max_connections,
            metrics=metrics,
        )


class Reading(Enum):
    """What of a request the connection reads."""

    HEAD = "head"  # or waits for its first byte
    BODY = "body"
    NOTHING = "nothing"  # after an error, until the answers under way are out


class JoinedWrites:
    """A transport that sends the head of an answer together with the first part of its body.

    Sending takes a quarter of the front end's time, and uvicorn sends each by itself. A head without a body to follow
    leaves at the end of the turn of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head: bytes | None = None
        self._joined = False

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, after the head if that still waits."""
        if self._joined:
            self._transport.write(data)
        elif self._head is None:
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._head += data
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._head is not None:
            self._joined = True
            self._transport.write(self._head)
            self._head = None

    def close(self) -> None:
        """Send what waits, and close."""
        self.flush()
        self._transport.close()


class BoundedConnection(HttpToolsProtocol):
    """A connection of uvicorn's that keeps to `ConnectionBounds`.

    Protocol errors are answered by a problem document (RFC 9457), like every other error of the service.
    """

    def __init__(self, bounds: ConnectionBounds, **options: Any) -> None:
        super().__init__(**options)
        self.bounds = bounds
        self.reserved = False  # True beyond the limit of connections
        self.timeout_keep_alive = bounds.keep_alive_seconds  # type: ignore[assignment]
        self._reading = Reading.HEAD
        self._head_bytes = 0
        self._overhead_bytes = 0  # of a chunked body, since the last byte of the body itself
        self._unsent = 0  # bytes that waited to be sent when `_send_timer` was started
        self._head_seconds = bounds.head_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        self._closed = False
        self._running: RequestResponseCycle | None = None
        self._refusal: Problem | None = None  # why a callback of the parser raised an error

    @property
    def answering(self) -> bool:
        """True while a request of this connection is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def idle(self) -> bool:
        """True if the connection is open and no request is under way."""
        return not self.answering and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, in place of an idle one if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.max_connections:
            self._admit_beyond_limit()
        if not transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer."""
        for timer in (self._head_timer, self._send_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._reading = Reading.NOTHING
        self._closed = True
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells the latest request alone, which may still wait for this one
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; those of a head in pieces, so that no more than the bound is ever kept."""
        while data and self._reading is Reading.HEAD:
            room = self.bounds.head_bytes - self._head_bytes
            piece, data = data[:room], data[room:]
            self._head_bytes += len(piece)
            super().data_received(piece)
            if self._reading is Reading.HEAD and self._head_bytes >= self.bounds.head_bytes:
                self._refuse(HeadersTooLarge(f"The request's head may have at most {self.bounds.head_bytes} bytes."))
        if data and self._reading is Reading.BODY:
            self._overhead_bytes += len(data)
            super().data_received(data)
            if self._reading is Reading.BODY and self._overhead_bytes > self.bounds.head_bytes:
                self._refuse(HeadersTooLarge(f"Chunk extensions and trailers may have {self.bounds.head_bytes} bytes."))
        if self._reading is Reading.HEAD and self._head_bytes and self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Start the request, unless too many wait on this connection."""
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1") or (version == "1.1" and not any(name == b"host" for name, _ in self.headers)):
            self._refusal = BadRequest("The request must be HTTP/1.1 with a `Host` header, or HTTP/1.0.")
            raise ValueError(self._refusal.detail)
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = BadRequest(f"At most {MAX_PIPELINED} requests of a connection may wait for another.")
            raise ValueError(self._refusal.detail)
        self._reading = Reading.BODY
        self._overhead_bytes = 0
        super().on_headers_complete()
        if self.bounds.draining or self.reserved or self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["method"] != "HEAD":
            cycle.transport = JoinedWrites(cycle.transport, self.loop)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; no route reads those that come after a chunked body."""
        if self._reading is Reading.HEAD:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._overhead_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        super().on_message_complete()
        self._head_bytes = 0
        self._reading = Reading.HEAD
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def on_response_complete(self) -> None:
        """Wait for the client to take the answer, and to end its request if it was answered early."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if self._closed:
            return
        if self.transport.get_write_buffer_size():
            self._watch_sending()
        if self.answering or self.transport.is_closing():
            return
        if self._reading is Reading.NOTHING:
            self.transport.close()
        elif self._reading is Reading.BODY:
            self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """Called by the transport when the client does not take the answer fast enough."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """Called by the transport when it does again."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        if self.transport.get_write_buffer_size():
            self._watch_sending()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called by `data_received` of uvicorn when the parser finds an error."""
        refusal, self._refusal = self._refusal, None
        self._refuse(refusal or BadRequest("This is not a valid HTTP/1.1 request."))

    def _unsupported_upgrade_warning(self) -> None:
        """Answer over HTTP/1.1, as RFC 9110 allows (Sec. 7.8); what follows on the connection is not read."""
        self._reading = Reading.NOTHING

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_seconds, self._head_timeout)

    def _head_timeout(self) -> None:
        self._head_timer = None
        if self._reading is Reading.HEAD and self._head_bytes:
            self._refuse(HeadTimeout(f"The request's head did not come within {self._head_seconds:g} seconds."))
        elif not self.answering:
            self._count("silent")
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer a request that cannot be read, and close the connection.

        If an earlier request of the connection is under way, its answer is the last one on it.
        """
        reading, self._reading = self._reading, Reading.NOTHING
        self._count(problem.slug)
        if self.answering and reading is Reading.HEAD:
            return  # `on_response_complete` closes the connection
        if self.answering and self.cycle.response_started:
            self.transport.abort()
        else:
            self.transport.write(_problem_bytes(problem))
            self.transport.close()
            self._watch_sending()

    def _count(self, reason: str) -> None:
        self.bounds.metrics.http_connections_refused_total.labels(reason).inc()
        logger.info("connection refused: %s", reason, extra={"fields": {"client": self.client and self.client[0]}})

    def _watch_sending(self) -> None:
        """Look after a while whether the client took anything of what waits to be sent."""
        if self._send_timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._send_timer = self.loop.call_later(self.bounds.send_seconds, self._check_sending)

    def _check_sending(self) -> None:
        self._send_timer = None
        left = self.transport.get_write_buffer_size()
        if left >= self._unsent > 0:
            self._count("unread")
            self.transport.abort()
        elif left:
            self._watch_sending()

    def _admit_beyond_limit(self) -> None:
        """Close the longest idle connection; if none is idle, answer nothing but health checks on this one."""
        others = [other for other in self.connections if isinstance(other, BoundedConnection) and other is not self]
        if _displace([other for other in others if not other.reserved]):
            return
        reserved = [other for other in others if other.reserved]
        if len(reserved) < RESERVED_CONNECTIONS or _displace(reserved):
            self.reserved = True
            self._head_seconds = RESERVED_HEAD_SECONDS
            self.app_state = {**self.app_state, OVER_LIMIT: True}
        else:
            self._count("too-many")
            self.transport.abort()


def _displace(connections: list[BoundedConnection]) -> bool:
    """Close the longest idle one of the connections; False if none is idle."""
    idle = [connection for connection in connections if connection.idle]
    if not idle:
        return False
    oldest = min(idle, key=lambda connection: connection._idle_since)
    oldest._count("displaced")
    oldest.transport.abort()
    return True


def _problem_bytes(problem: Problem) -> bytes:
    """A whole HTTP response, for a connection that has no request to answer."""
    id_ = uuid.uuid4().hex
    fields = {"type": problem.type, "title": problem.title, "status": problem.status, "detail": problem.detail}
    body = json.dumps({**fields, "request_id": id_}).encode()
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        f"content-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {id_}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
