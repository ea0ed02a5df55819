"""The life of a request: it ends at the deadline, and when the client hangs up."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, NotReady, Problem
from service.http.problems import problem_response

__all__ = ["RequestLifetime"]

GRACE_SECONDS = 0.1
"""Requests younger than this are left alone: most are answered by then, without the cost of a task that listens."""


class RequestLifetime:
    """ASGI middleware that cancels a handler `deadline` seconds after its request came, or once its client has left.

    Cancelling is all it takes: a cancelled handler leaves the cache's computation, and a computation nobody waits for
    leaves the engine's queue.
    """

    def __init__(self, app: ASGIApp, deadline: float) -> None:
        self.app, self.deadline = app, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        life = _Life(receive, send)
        loop = asyncio.get_running_loop()
        timers = (
            loop.call_later(self.deadline, life.expire),
            loop.call_later(GRACE_SECONDS, life.listen),
        )
        problem: Problem | None = None
        try:
            await self.app(scope, life.receive, life.send)
        except asyncio.CancelledError:
            if life.expired:
                problem = DeadlineExceeded(f"No answer within {self.deadline:g} seconds; ask for less, or again later.")
            elif not life.hung_up:  # the server stops and will not wait any longer
                problem = NotReady("The service is stopping; ask again.")
        finally:
            for timer in timers:
                timer.cancel()
            life.end()
        if problem and not life.started:
            await problem_response(scope, problem)(scope, receive, send)


class _Life:
    """Stands between a handler and the server, and cancels the handler when its time is up or its client gone."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._handler = cast("asyncio.Task[None]", asyncio.current_task())
        self._listener: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message] | None = None  # from the server, once a listener takes them
        self._reads = self._wanted = False  # the handler waits for the server; the listener waits for that to end
        self.started = self.finished = False
        """How far the answer is."""
        self.expired = self.hung_up = False
        """Why the handler was cancelled."""

    async def receive(self) -> Message:
        """The server's next message, for the handler."""
        if self._messages:
            return await self._messages.get()
        self._reads = True
        try:
            return await self._receive()
        finally:
            self._reads = False
            if self._wanted:
                self.listen()

    async def send(self, message: Message) -> None:
        """Pass on the handler's message."""
        self.started = True
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    def expire(self) -> None:
        """Cancel the handler: its time is up."""
        if not self.hung_up:
            self.expired = True
            self._handler.cancel()

    def listen(self) -> None:
        """Hear from now on when the client hangs up, though the handler is not waiting for messages."""
        self._wanted = self._reads
        if not self._reads:
            self._messages = asyncio.Queue(maxsize=1)
            self._listener = asyncio.ensure_future(self._listen(self._messages))

    async def _listen(self, messages: asyncio.Queue[Message]) -> None:
        while (message := await self._receive())["type"] != "http.disconnect":
            await messages.put(message)
        if not self.finished and not self.expired:  # once it has answered, what the server reports is no hang-up
            self.hung_up = True
            self._handler.cancel()

    def end(self) -> None:
        """Listen no more; the handler is not being cancelled any more."""
        if self._listener:
            self._listener.cancel()
        if self.expired or self.hung_up:
            self._handler.uncancel()
