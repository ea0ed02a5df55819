"""Equal requests in flight at once are computed once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.cache.stores import Corrupt, Skipped, Store, StoreFailed
from service.errors import NotReady
from service.metrics import Metrics
from service.tracing import span

__all__ = ["Cache"]


@dataclass
class _Flight:
    """A computation under way and the number of requests that wait for it."""

    task: asyncio.Task[bytes]
    waiters: int = 0


class Cache:
    """Values by key, each computed in a task of its own that equal requests share."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._flights: dict[str, _Flight] = {}

    async def get_or_compute(self, key: str, compute: Callable[[], Awaitable[bytes]]) -> tuple[bytes, bool]:
        """The value of `key`, and whether the store had it. See `compute`."""
        value = await self.find(key)
        return (value, True) if value is not None else (await self.compute(key, compute), False)

    async def find(self, key: str) -> bytes | None:
        """The store's value; it is not asked for one that is being computed."""
        with span("cache") as look_up:
            value, outcome = (None, "joined") if key in self._flights else await self._look_up(key)
            if look_up is not None:
                look_up.set_attributes({"vampprior.backend": self._store.name, "vampprior.outcome": outcome})
        self._count(outcome)
        return value

    async def compute(self, key: str, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        """The value of `key`, from `compute` or from an equal call under way; it is stored.

        What `compute` raises reaches every request that waits for it, and nothing is stored. A request that is
        cancelled leaves the computation to those that still wait; the last one to leave cancels it.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._compute(key, compute)))
            flight.task.add_done_callback(_note_exception)
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if flight.task.cancelled() and task is not None and not task.cancelling():
                # not this request was cancelled but the computation, by `close` or by itself
                raise NotReady("The service stopped computing this answer; ask again.") from None
            raise
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                self._land(key, flight)

    async def close(self) -> None:
        """Cancel what is computed, finish what is stored."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()

    async def _look_up(self, key: str) -> tuple[bytes | None, str]:
        """The store's value, if it has it, and how that went."""
        try:
            value = await self._store.get(key)
        except Skipped:
            return None, "skipped"
        except StoreFailed:
            return None, "error"
        except Corrupt:  # `_compute` replaces it
            return None, "corrupt"
        return value, "miss" if value is None else "hit"

    async def _compute(self, key: str, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        value = await compute()
        self._store.put(key, value)
        return value

    def _land(self, key: str, flight: _Flight) -> None:
        """Forget a flight that nobody waits for, so that nobody joins it while it is being cancelled."""
        flight.task.cancel()
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _count(self, outcome: str) -> None:
        self._metrics.cache_requests_total.labels(self._store.name, outcome).inc()


def _note_exception(task: asyncio.Task[bytes]) -> None:
    """Tell asyncio that an exception was seen, even if every request that would see it has left."""
    if not task.cancelled():
        task.exception()
