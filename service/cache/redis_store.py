"""Values in Redis, which is never a burden: bounded in time, size and number, and left alone after a failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from service.cache.envelope import OVERHEAD_BYTES, Envelope
from service.cache.stores import Corrupt, Skipped, StoreFailed
from service.metrics import Metrics

__all__ = ["RedisStore"]

BREAK_SECONDS = 5.0  # how long a Redis that failed is left alone
MAX_CONNECTIONS = 32
MAX_STORES = 64  # answers on their way to Redis at once; more are not stored
MAX_VALUE_BYTES = 8 * 1024 * 1024  # largest value that is written to Redis or read from it

Clock = Callable[[], float]
logger = logging.getLogger(__name__)


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
