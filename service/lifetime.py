"""The life of a request: it ends at the deadline, and when the client hangs up."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, NotReady
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
        started = finished = False

        async def tracked_send(message: Message) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        # the server's messages pass through here, so that a hang-up is heard while the handler computes
        messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        handler = asyncio.ensure_future(self.app(scope, messages.get, tracked_send))
        listener = asyncio.ensure_future(_listen(receive, messages))
        try:
            async with asyncio.timeout(self.deadline):
                await asyncio.wait({handler, listener}, return_when=asyncio.FIRST_COMPLETED)
                if handler.done() or finished:  # once it has answered, what the server reports is no hang-up
                    await handler
        except TimeoutError:
            await _cancel(handler)
            if not started:
                problem = DeadlineExceeded(f"No answer within {self.deadline:g} seconds; ask for less, or again later.")
                await problem_response(scope, problem)(scope, receive, send)
        except asyncio.CancelledError:  # by the server, which stops and will not wait any longer
            await _cancel(handler)
            if not started:
                await problem_response(scope, NotReady("The service is stopping; ask again."))(scope, receive, send)
        finally:
            await _cancel(listener)
            await _cancel(handler)


async def _listen(receive: Receive, messages: asyncio.Queue[Message]) -> None:
    """Pass the request's messages on until its client has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await messages.put(message)


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
