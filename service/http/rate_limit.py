"""Rate limits: at most a number of requests of a client in a sliding window, shared by replicas through Redis."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItem, WindowStats, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool

from service.errors import RateLimited

__all__ = ["Allowance", "LocalWindow", "SharedWindow", "client_network", "create_rate_limit"]

MAX_CLIENTS = 50_000  # counted at once in the memory of a process; the longest unseen are forgotten
MAX_CONNECTIONS = 16  # to Redis
BREAK_SECONDS = 5.0  # after a failure, in which Redis is not asked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Allowance:
    """What is left to a client.

    allowed:   whether this request is within the limit
    limit:     requests per window
    period:    length of the window in seconds
    remaining: requests that are left in the window
    seconds:   until requests are forgotten, 1 at least
    """

    allowed: bool
    limit: int
    period: int
    remaining: int
    seconds: int

    def headers(self) -> dict[str, str]:
        """The `RateLimit` headers of the answer."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.seconds),
        }

    def problem(self, counted: str) -> RateLimited:
        """The error of a request that is over the limit; `counted` names the requests that count."""
        detail = f"The limit is {self.limit} {counted} in {self.period} seconds; wait {self.seconds} seconds."
        return RateLimited(detail, headers={**self.headers(), "Retry-After": str(self.seconds)})


class LocalWindow:
    """A sliding window counter in the memory of this process.

    The count is that of the present window plus that of the one before, weighted by how much of it the sliding window
    still covers. Memory is bounded by `max_clients`.
    """

    def __init__(
        self, limit: RateLimitItem, *, max_clients: int = MAX_CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._amount, self._period = limit.amount, limit.get_expiry()
        self._max_clients, self._clock = max_clients, clock
        self._counts: OrderedDict[str, tuple[int, int, int]] = (
            OrderedDict()
        )  # window, requests in the one before, in it

    def __len__(self) -> int:
        """Number of clients that are counted."""
        return len(self._counts)

    async def close(self) -> None:
        """There is nothing to close."""

    async def hit(self, client: str) -> Allowance:
        """Count a request of the client, unless it is over the limit."""
        window, position = divmod(self._clock() / self._period, 1.0)
        number, before, current = self._counts.pop(client, (int(window), 0, 0))
        if number != window:
            before, current = (current, 0) if number == window - 1 else (0, 0)
        weighted = before * (1.0 - position) + current
        allowed = weighted + 1 <= self._amount
        self._counts[client] = int(window), before, current + allowed
        if len(self._counts) > self._max_clients:
            self._counts.popitem(last=False)
        remaining = int(max(0, self._amount - weighted - allowed))
        seconds = self._period * (1.0 - position)
        return Allowance(allowed, self._amount, self._period, remaining, max(1, round(seconds)))


class SharedWindow:
    """A sliding window counter in Redis, with one in memory for times when Redis fails.

    A check takes `timeout` seconds at most. After a failure Redis is left alone for a few seconds. A negative count in
    Redis is deleted, and counting starts again.
    """

    def __init__(self, limit: RateLimitItem, url: str, timeout: float, *, prefix: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=MAX_CONNECTIONS, timeout=timeout, socket_connect_timeout=timeout
        )
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=prefix,
            connection_pool=pool,  # type: ignore[arg-type]
        )
        self._limit, self._timeout, self._pool = limit, timeout, pool
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._local = LocalWindow(limit)
        self._broken_until = float("-inf")

    async def hit(self, client: str) -> Allowance:
        """Count a request of the client, unless it is over the limit."""
        if time.monotonic() < self._broken_until:
            return await self._local.hit(client)
        try:
            async with asyncio.timeout(self._timeout):
                allowed, window = await self._count(client)
                if window.remaining > self._limit.amount:  # the stored count is negative, which no client can cause
                    await self._limiter.clear(self._limit, client)
                    allowed, window = await self._count(client)
        except Exception as error:
            self._broken_until = time.monotonic() + BREAK_SECONDS
            logger.warning("redis failed (%s), rate limits are counted per process meanwhile", type(error).__name__)
            return await self._local.hit(client)
        seconds = max(1, round(window.reset_time - time.time()))
        remaining = min(max(0, window.remaining), self._limit.amount)
        return Allowance(allowed, self._limit.amount, self._limit.get_expiry(), remaining, seconds)

    async def _count(self, client: str) -> tuple[bool, WindowStats]:
        """Count a request in Redis: whether it is within the limit, and the state of the window after it."""
        allowed = await self._limiter.hit(self._limit, client)
        return allowed, await self._limiter.get_window_stats(self._limit, client)

    async def close(self) -> None:
        """Disconnect from Redis."""
        await self._pool.aclose()


def create_rate_limit(limit: str, url: str, timeout: float, *, name: str) -> LocalWindow | SharedWindow:
    """A limit such as `100/minute`, counted in the memory of this process for `memory://`, else in the Redis at `url`.

    name: keeps the counts of several limits apart
    """
    if url == "memory://":
        return LocalWindow(parse(limit))
    return SharedWindow(parse(limit), url, timeout, prefix=f"vampprior:{name}")


def client_network(address: str) -> str:
    """The address that a client is limited by: itself, or for IPv6 its network of 64 bits, which one host may own."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
