"""A request and its answer, between the server and the application."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.types import Message, Receive, Send

from service.errors import TooLarge

__all__ = ["Exchange"]

GRACE_SECONDS = 0.1
"""Requests younger than this are left alone: most are answered by then, without the cost of a task that listens."""


class Exchange:
    """Stands between a handler and the server.

    It counts the bytes of the body, adds headers to the answer, and cancels the handler when `deadline` seconds have
    passed or the client has left. Cancelling is all it takes: a cancelled handler leaves the cache's computation, and a
    computation nobody waits for leaves the engine's queue.

    headers: of the answer, beside those of the application
    """

    def __init__(self, receive: Receive, send: Send, *, deadline: float, max_bytes: int) -> None:
        self._receive, self._send, self._max_bytes = receive, send, max_bytes
        self._handler = cast("asyncio.Task[None]", asyncio.current_task())
        self._listener: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message] | None = None  # from the server, once a listener takes them
        self._reads = self._wanted = False  # the handler waits for the server; the listener waits for that to end
        self._bytes = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.status: int | None = None
        """Status of the answer, once it has started."""
        self.finished = False
        self.expired = self.hung_up = self.too_large = False
        """Why the handler was cancelled or refused more of the body."""
        self._ended = self._lifted = False
        self._loop = asyncio.get_running_loop()
        self._rest = deadline - GRACE_SECONDS
        if self._rest > 0:
            self._timer = self._loop.call_later(GRACE_SECONDS, self._grow_old)
        else:
            self._timer = self._loop.call_later(deadline, self._expire)

    async def receive(self) -> Message:
        """The server's next message. Raises `TooLarge` for a body of more bytes than are allowed."""
        if self._messages is not None:
            message = await self._messages.get()
        else:
            self._reads = True
            try:
                message = await self._receive()
            finally:
                self._reads = False
                if self._wanted:
                    self._listen()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._max_bytes:
            self.too_large = True
            raise self.refusal()
        return message

    async def send(self, message: Message) -> None:
        """Pass on the handler's message; nothing of an answer to a body that turned out to be too large."""
        if message["type"] == "http.response.start":
            if self.too_large and message["status"] != TooLarge.status:
                return  # the application may have taken the refusal for a broken form
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.headers]
        elif self.status is None:
            return
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    def refusal(self) -> TooLarge:
        """What a body of too many bytes is answered with."""
        return TooLarge(f"The body may have at most {self._max_bytes} bytes.")

    def check_length(self, length: bytes) -> None:
        """Raise `TooLarge` for a body that says it has more bytes than are allowed."""
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self.refusal()

    def lift_deadline(self) -> None:
        """Let the handler take any time, since it bounds its own steps; a hang-up still cancels it."""
        self._lifted = True

    def end(self) -> None:
        """Stop the timer, and listen no more; the handler is not being cancelled any more."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        if self.expired or self.hung_up:
            self._handler.uncancel()

    def _grow_old(self) -> None:
        """Listen for a hang-up from now on, and wait for the deadline."""
        self._timer = self._loop.call_later(self._rest, self._expire)
        self._listen()

    def _expire(self) -> None:
        if self._lifted:
            if self._listener is None:  # the deadline was too short for `_grow_old`
                self._listen()
        elif not self.hung_up:
            self.expired = True
            self._handler.cancel()

    def _listen(self) -> None:
        """Hear from now on when the client hangs up, though the handler is not waiting for messages."""
        self._wanted = self._reads
        if not self._reads:
            self._messages = asyncio.Queue(maxsize=1)
            self._listener = asyncio.ensure_future(self._hear(self._messages))

    async def _hear(self, messages: asyncio.Queue[Message]) -> None:
        while (message := await self._receive())["type"] != "http.disconnect":
            await messages.put(message)
        if not self.finished and not self.expired:  # once it has answered, what the server reports is no hang-up
            self.hung_up = True
            self._handler.cancel()
