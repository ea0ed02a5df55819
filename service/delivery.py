"""From the compute thread back to who waits: threads of their own render results, and wake a loop once for many."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

__all__ = ["Delivery", "Parcel", "Waiter", "fail"]

logger = logging.getLogger(__name__)

RENDERERS = 2
SMALL_ROWS = 16
"""Results of more rows are rendered by themselves."""
WAKE_SECONDS = 0.01
"""Answers that are ready go out after so long, though others of their batch are not. Clients that hear together ask
together again: after 2 ms the batches of 64 clients fell apart, and a third fewer samples were answered."""

Outcome = tuple[object, BaseException | None]
"""A result, or why there is none."""


class Waiter:
    """A coroutine that waits for a job's result, or for what `then` makes of it."""

    def __init__(self, then: Callable[[Any], object] | None) -> None:
        self.then = then
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[object] = self.loop.create_future()

    def tell(self, outcome: Outcome) -> None:
        """Wake the coroutine; in its event loop."""
        result, failure = outcome
        if self.future.done():
            return
        if failure is None:
            self.future.set_result(result)
        elif isinstance(failure, asyncio.CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(failure)


@dataclass(frozen=True)
class Parcel:
    """Who waits, what gives the result, and of how many rows."""

    waiter: Waiter
    result: Callable[[], object]
    rows: int

    def open(self) -> Outcome:
        """The result, and what `then` makes of it, unless nobody waits any more."""
        if self.waiter.future.done():
            return None, None
        try:
            result = self.result()
            return (self.waiter.then(result) if self.waiter.then else result), None
        except Exception as error:
            logger.exception("a result could not be rendered")
            return None, error


class Delivery:
    """Takes results from the compute thread, which goes on at once.

    delivered: called, in a rendering thread, with the number of parcels whose waiters are about to be woken
    """

    def __init__(self, name: str, delivered: Callable[[int], None]) -> None:
        self._renderers = ThreadPoolExecutor(RENDERERS, thread_name_prefix=f"render-{name}")
        self._delivered = delivered

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Render the results and wake who waits for them; small ones do not wait for large ones of their batch."""
        small = [parcel for parcel in parcels if parcel.rows <= SMALL_ROWS]
        for group in (small, *([parcel] for parcel in parcels if parcel.rows > SMALL_ROWS)):
            try:
                if group:
                    self._renderers.submit(self._render, group)
            except RuntimeError:  # closed meanwhile
                fail([parcel.waiter for parcel in group], asyncio.CancelledError())

    def _render(self, parcels: Sequence[Parcel]) -> None:
        ready: list[tuple[Waiter, Outcome]] = []
        woken = time.perf_counter()
        for parcel in parcels:
            ready.append((parcel.waiter, parcel.open()))
            if time.perf_counter() - woken > WAKE_SECONDS:
                self._wake(ready)
                ready, woken = [], time.perf_counter()
        self._wake(ready)

    def _wake(self, ready: Sequence[tuple[Waiter, Outcome]]) -> None:
        self._delivered(len(ready))
        _wake(ready)

    def close(self) -> None:
        """Take nothing more; what was taken is still delivered."""
        self._renderers.shutdown(wait=False)


def fail(waiters: Sequence[Waiter], failure: BaseException) -> None:
    """Tell all of them why there is no result; from any thread."""
    _wake([(waiter, (None, failure)) for waiter in waiters])


def _wake(told: Sequence[tuple[Waiter, Outcome]]) -> None:
    """Tell outcomes to who waits for them, each event loop at once; from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Outcome]]] = {}
    for waiter, outcome in told:
        by_loop.setdefault(waiter.loop, []).append((waiter, outcome))
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell, of_loop)
        except RuntimeError:  # the loop has closed: nobody is left to tell
            logger.debug("results came after the end of their event loop")


def _tell(told: Sequence[tuple[Waiter, Outcome]]) -> None:
    for waiter, outcome in told:
        waiter.tell(outcome)
