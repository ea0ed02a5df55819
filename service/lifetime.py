"""The life of a request: it ends at the deadline, and when the client hangs up."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, NotReady, Problem
from service.problems import problem_response

__all__ = ["RequestLifetime"]


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
        answer = _Answer(send)
        handler = cast("asyncio.Task[None]", asyncio.current_task())
        # the server's messages pass through here, so that a hang-up is heard while the handler computes
        messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        hung_up = False

        async def listen() -> None:
            nonlocal hung_up
            while (message := await receive())["type"] != "http.disconnect":
                await messages.put(message)
            if not answer.finished:  # once it has answered, what the server reports is no hang-up
                hung_up = True
                handler.cancel()

        listener = asyncio.ensure_future(listen())
        try:
            async with asyncio.timeout(self.deadline):
                await self.app(scope, messages.get, answer.send)
        except TimeoutError:
            problem = DeadlineExceeded(f"No answer within {self.deadline:g} seconds; ask for less, or again later.")
            await answer.unless_started(scope, receive, problem)
        except asyncio.CancelledError:
            if hung_up:
                handler.uncancel()
            else:  # the server stops and will not wait any longer
                await answer.unless_started(scope, receive, NotReady("The service is stopping; ask again."))
        finally:
            listener.cancel()


class _Answer:
    """An answer on its way out, and how far it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.finished = False

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        self.started = True
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def unless_started(self, scope: Scope, receive: Receive, problem: Problem) -> None:
        """Answer with a problem, if nothing else has gone out."""
        if not self.started:
            await problem_response(scope, problem)(scope, receive, self._send)
