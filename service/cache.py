"""A cache of deterministic answers. Equal requests in flight at once are computed once, and Redis is never a burden."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from service.envelope import OVERHEAD_BYTES, Envelope
from service.errors import NotReady
from service.metrics import Metrics
from service.settings import Settings

__all__ = ["Cache", "cache_key", "create_cache"]

BREAK_SECONDS = 5.0  # how long a Redis that failed is left alone
ENTRY_BYTES = 256  # what Python takes for an entry in memory besides the characters of its key and value
MAX_CONNECTIONS = 32
MAX_STORES = 64  # answers on their way to Redis at once; more are not stored
MAX_VALUE_BYTES = 8 * 1024 * 1024  # largest value that is written to Redis or read from it

APPLICATION = f"vampprior:{version('vampprior')}"
"""Start of every key, so that neither another program nor another version of this one finds its answers."""

Clock = Callable[[], float]
logger = logging.getLogger(__name__)


def cache_key(operation: str, model_sha256: str, *parts: bytes | str) -> str:
    """`vampprior:{version}:{operation}:{model sha256}:{hash of the parts}`.

    The hash covers the length of each part, so that `("ab",)` and `("a", "b")` have different keys.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"b", len(data)) + data)
    return f"{APPLICATION}:{operation}:{model_sha256}:{digest.hexdigest()}"


def create_cache(settings: Settings, metrics: Metrics, *, clock: Clock = time.monotonic) -> Cache:
    """The cache that `settings.cache_url` names. Connects to nothing until it is used."""
    if settings.cache_url == "memory://":
        return Cache(MemoryStore(settings.cache_memory_bytes, settings.cache_ttl_seconds, clock), metrics)
    store = RedisStore(
        settings.cache_url,
        settings.cache_ttl_seconds,
        settings.cache_timeout_seconds,
        metrics,
        clock,
        Envelope(settings.cache_secret.get_secret_value()),
    )
    return Cache(store, metrics)


class Skipped(Exception):  # noqa: N818
    """The store was not asked."""


class StoreFailed(Exception):  # noqa: N818
    """The store was asked in vain."""


class Corrupt(Exception):  # noqa: N818
    """The store holds something under this key that this service did not write."""


class Store(Protocol):
    """Where values are kept."""

    name: str

    async def get(self, key: str) -> bytes | None:
        """The value, or None. Raises `Skipped`, `StoreFailed` or `Corrupt`, and nothing else."""

    def put(self, key: str, value: bytes) -> None:
        """Keep the value if possible, without delay and without a word if not."""

    async def close(self) -> None:
        """Finish what is under way."""


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
        """The value of `key`, and whether the store had it.

        What `compute` raises reaches every request that waits for it, and nothing is stored. A request that is
        cancelled leaves the computation to those that still wait; the last one to leave cancels it.
        """
        flight, outcome = self._flights.get(key), "joined"
        if flight is None:
            value, outcome = await self._look_up(key)
            if value is not None:
                self._count(outcome)
                return value, True
            flight = self._flights.get(key)  # of an equal request that has begun meanwhile
        self._count(outcome if flight is None else "joined")
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._compute(key, compute)))
            flight.task.add_done_callback(_note_exception)
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task), False
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


class MemoryStore:
    """At most `max_bytes` of entries, each for `ttl` seconds; the longest unused leave first."""

    name = "memory"

    def __init__(self, max_bytes: int, ttl: float, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._items: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # least recently used first
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """The value, unless it is too old."""
        expiry, value = self._items.get(key, (0.0, None))
        if value is None:
            return None
        if expiry <= self._clock():
            self._drop(key)
            return None
        self._items.move_to_end(key)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keep the value, and drop others until it fits; one that could never fit is not kept."""
        if key in self._items:
            self._drop(key)
        if _size(key, value) > self._max_bytes:
            return
        self._items[key] = self._clock() + self._ttl, value
        self._bytes += _size(key, value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._items)))

    async def close(self) -> None:
        """Nothing is ever under way."""

    def _drop(self, key: str) -> None:
        _, value = self._items.pop(key)
        self._bytes -= _size(key, value)


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES


class RedisStore:
    """Values in Redis, each in an `envelope` and with a time to live of `ttl` seconds.

    Values of more than `MAX_VALUE_BYTES` are not stored. A longer one in Redis is corrupt, and is not read to its end.
    No look-up takes longer than `timeout` seconds. After any failure Redis is left alone for `BREAK_SECONDS`.
    """

    name = "redis"

    def __init__(self, url: str, ttl: int, timeout: float, metrics: Metrics, clock: Clock, envelope: Envelope) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout,
            socket_timeout=None,  # `get` and `put` have their own, once for all that they do
            socket_connect_timeout=timeout,
            # a connection that the server has closed since is opened again, once
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis = Redis.from_pool(pool)
        self._envelope = envelope
        self._ttl = ttl
        self._timeout = timeout
        self._metrics = metrics
        self._clock = clock
        self._closed_until = -float("inf")
        self._stores: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> bytes | None:
        """The value, at most `timeout` seconds later. Raises `Skipped`, `StoreFailed` or `Corrupt`.

        An empty string in Redis counts as no value, since GETRANGE returns the same for both.
        """
        if self._clock() < self._closed_until:
            raise Skipped
        try:
            async with asyncio.timeout(self._timeout):
                # the end of the range is included, so a value that is too long comes with one byte too many
                stored = await self._redis.getrange(key, 0, MAX_VALUE_BYTES + OVERHEAD_BYTES)
        except Exception as error:
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                raise Corrupt from error  # a list or a hash
            self._break(error)
            raise StoreFailed from error
        if not stored:
            return None
        if not isinstance(stored, bytes) or len(stored) > MAX_VALUE_BYTES + OVERHEAD_BYTES:
            raise Corrupt
        value = self._envelope.open(key, stored)
        if value is None:
            raise Corrupt
        return value

    def put(self, key: str, value: bytes) -> None:
        """Send the value to Redis in the background, unless it is too large."""
        if len(value) > MAX_VALUE_BYTES:
            return
        if self._clock() < self._closed_until or len(self._stores) >= MAX_STORES:
            return
        task = asyncio.create_task(self._set(key, value))
        self._stores.add(task)
        task.add_done_callback(self._stores.discard)

    async def close(self) -> None:
        """Wait for the values that are on their way, at most `timeout` seconds, and disconnect."""
        await asyncio.gather(*self._stores, return_exceptions=True)
        try:
            async with asyncio.timeout(self._timeout):
                await self._redis.aclose(close_connection_pool=True)
        except Exception as error:
            logger.warning("could not disconnect from redis: %s", type(error).__name__)

    async def _set(self, key: str, value: bytes) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._redis.set(key, self._envelope.seal(key, value), ex=self._ttl)
        except Exception as error:
            self._metrics.cache_requests_total.labels(self.name, "error").inc()
            self._break(error)

    def _break(self, error: Exception) -> None:
        if self._clock() >= self._closed_until:
            logger.warning("redis failed (%s), skipped for %g seconds", type(error).__name__, BREAK_SECONDS)
        self._closed_until = self._clock() + BREAK_SECONDS
