"""Rate limits, in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from limits import parse

from service.http.rate_limit import LocalWindow, SharedWindow, client_network, create_rate_limit

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def hits(window: LocalWindow | SharedWindow, client: str, count: int) -> list[bool]:
    return [(await window.hit(client)).allowed for _ in range(count)]


async def test_a_window_slides() -> None:
    clock = Clock()
    window = LocalWindow(parse("10/100 seconds"), clock=clock)
    assert await hits(window, "a", 11) == [True] * 10 + [False]
    clock.now += 100  # the next window, of which the last one still covers all
    assert await hits(window, "a", 1) == [False]
    clock.now += 50  # half of it: five of the ten count
    assert await hits(window, "a", 6) == [True] * 5 + [False]
    clock.now += 250
    assert await hits(window, "a", 10) == [True] * 10


async def test_no_ten_seconds_see_more_than_twice_the_limit() -> None:
    """A sliding window counter is an estimate; this is how far off it can be."""
    clock = Clock()
    window = LocalWindow(parse("10/10 seconds"), clock=clock)
    times = []
    for _ in range(2000):
        clock.now += 0.05
        if (await window.hit("a")).allowed:
            times.append(clock.now)
    assert all(sum(start <= t < start + 10 for t in times) <= 20 for start in times)
    assert len(times) <= 10 * (2000 * 0.05 / 10) + 10


async def test_what_is_left_is_told() -> None:
    clock = Clock()
    window = LocalWindow(parse("3/minute"), clock=clock)
    allowances = [await window.hit("a") for _ in range(4)]
    assert [allowance.remaining for allowance in allowances] == [2, 1, 0, 0]
    assert {allowance.limit for allowance in allowances} == {3}
    assert all(1 <= allowance.seconds <= 60 for allowance in allowances)
    problem = allowances[3].problem("requests")
    assert problem.headers["Retry-After"] == str(allowances[3].seconds)
    assert "3 requests in 60 seconds" in problem.detail


async def test_memory_is_bounded() -> None:
    window = LocalWindow(parse("1/day"), max_clients=100)
    for number in range(1000):
        assert await hits(window, f"client {number}", 1) == [True]
    assert len(window) == 100
    assert await hits(window, "client 999", 1) == [False]


async def test_replicas_share_a_limit(redis_server: Any) -> None:
    one, other = (create_rate_limit("3/day", redis_server.url, 5.0, name="requests") for _ in range(2))
    try:
        assert await hits(one, "a", 2) == [True, True]
        assert await hits(other, "a", 2) == [True, False]
        assert await hits(other, "b", 1) == [True]
        with redis_server.client() as client:
            keys = client.keys()
            assert keys
            assert all(key.startswith(b"vampprior:requests") and client.ttl(key) > 0 for key in keys)
    finally:
        await asyncio.gather(one.close(), other.close())


@pytest.mark.parametrize("place", ["", "/-1"], ids=["this_window", "the_window_before"])
async def test_a_negative_count_is_deleted(redis_server: Any, place: str) -> None:
    window = create_rate_limit("3/day", redis_server.url, 30.0, name="requests")
    try:
        await window.hit("a")
        with redis_server.client() as client:
            (key,) = client.keys()
            client.set(key + place.encode(), -99_999_999, ex=100_000)
        allowances = [await window.hit("a") for _ in range(4)]
        assert [allowance.allowed for allowance in allowances] == [True, True, True, False]
        assert [allowance.remaining for allowance in allowances] == [2, 1, 0, 0]
    finally:
        await window.close()


async def test_limits_of_other_names_are_counted_apart(redis_server: Any) -> None:
    one, other = (create_rate_limit("1/day", redis_server.url, 5.0, name=name) for name in ("one", "other"))
    try:
        assert await hits(one, "a", 2) == [True, False]
        assert await hits(other, "a", 1) == [True]
    finally:
        await asyncio.gather(one.close(), other.close())


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_without_redis_each_process_counts(redis_server: Any, fault: str) -> None:
    window = create_rate_limit("2/day", redis_server.url, 0.1, name="requests")
    try:
        assert await hits(window, "a", 1) == [True]
        getattr(redis_server, fault)()
        begin = time.monotonic()
        assert await hits(window, "a", 200) == [True, True] + [False] * 198
        assert time.monotonic() - begin < 60  # of 200 requests, not one waits again for what failed
    finally:
        if fault == "freeze":
            redis_server.thaw()
        await window.close()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", "unknown"),
    ],
)
async def test_clients_are_limited_by_address_or_network(address: str, network: str) -> None:
    assert client_network(address) == network


def test_two_services_share_a_limit_through_redis(redis_server: Any, serve: Any) -> None:
    settings = {"rate_limit": "2/day", "cache_url": redis_server.url, "cache_timeout_seconds": 30}
    with serve(**settings) as one, serve(**settings) as other:
        assert one.client.get("/models").status_code == 200
        assert other.client.get("/models").status_code == 200
        for service in (one, other):
            assert service.client.get("/models").status_code == 429
            assert service.client.get("/health/live").status_code == 200
