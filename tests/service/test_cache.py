from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

from service.cache import Cache, cache_key, create_cache
from service.cache.envelope import Envelope
from service.cache.keys import STREAMS
from service.cache.memory import ENTRY_BYTES, MemoryStore
from service.cache.redis_store import BREAK_SECONDS, MAX_STORES, MAX_VALUE_BYTES, RedisStore
from service.errors import BadImage, NotReady
from service.metrics import Metrics
from service.settings import Settings

pytestmark = pytest.mark.anyio

LONG, SHORT = 60.0, 0.1  # seconds to wait for a Redis that answers, and for one that will not


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """A computation that counts its runs and ends when a test says so."""

    def __init__(self, value: bytes = b"value", *, open_: bool = True) -> None:
        self.value = value
        self.runs = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()

    async def __call__(self) -> bytes:
        self.runs += 1
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.value


async def until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "nothing happened within a minute"
        await asyncio.sleep(0.005)


def memory_cache(**changes: Any) -> tuple[Cache, Metrics, Clock]:
    metrics, clock = Metrics(), Clock()
    return create_cache(Settings(cache_url="memory://", **changes), metrics, clock=clock), metrics, clock


def redis_cache(url: str, timeout: float = LONG, secret: str = "") -> tuple[Cache, Metrics, Clock]:
    metrics, clock = Metrics(), Clock()
    settings = Settings(cache_url=url, cache_timeout_seconds=timeout, cache_ttl_seconds=100, cache_secret=secret)  # type: ignore[arg-type]
    return create_cache(settings, metrics, clock=clock), metrics, clock


def count(metrics: Metrics, outcome: str, backend: str = "redis") -> float:
    labels = {"backend": backend, "outcome": outcome}
    return metrics.registry.get_sample_value("vampprior_cache_requests_total", labels) or 0


# keys


def test_a_key_says_what_it_is_of() -> None:
    key = cache_key("sample", "f00", b"x", "1")
    assert key.startswith(f"vampprior:{version('vampprior')}:{STREAMS}:sample:f00:")
    assert key == cache_key("sample", "f00", b"x", "1")


def test_keys_of_different_parts_differ() -> None:
    parts: list[tuple[bytes | str, ...]] = [
        (),
        ("",),
        (b"",),
        ("", ""),
        ("ab",),
        (b"ab",),
        ("a", "b"),
        ("as1:b",),
        ("a", b"b"),
    ]
    assert len({cache_key("sample", "f00", *part) for part in parts}) == len(parts)


# memory


async def test_a_value_is_computed_once() -> None:
    cache, metrics, _ = memory_cache()
    work = Work()
    assert await cache.get_or_compute("k", work) == (b"value", False)
    assert await cache.get_or_compute("k", work) == (b"value", True)
    assert work.runs == 1
    assert (count(metrics, "miss", "memory"), count(metrics, "hit", "memory")) == (1, 1)


async def test_a_value_lives_as_long_as_was_set() -> None:
    cache, _, clock = memory_cache(cache_ttl_seconds=10)
    await cache.get_or_compute("k", Work())
    clock.now = 9.9
    assert (await cache.get_or_compute("k", Work()))[1]
    clock.now = 10.0
    assert not (await cache.get_or_compute("k", Work()))[1]


async def test_the_longest_unused_leaves_first() -> None:
    store = MemoryStore(max_bytes=3 * ENTRY_BYTES + 30, ttl=10, clock=Clock())
    store.put("a", b"123456789")
    store.put("b", b"123456789")
    store.put("c", b"123456789")
    await store.get("a")
    store.put("d", b"1")
    assert await store.get("b") is None
    assert await store.get("a") == b"123456789"
    assert await store.get("c") == b"123456789"
    assert await store.get("d") == b"1"


async def test_a_value_larger_than_the_memory_is_not_kept_and_drives_out_none() -> None:
    store = MemoryStore(max_bytes=ENTRY_BYTES + 10, ttl=10, clock=Clock())
    store.put("a", b"1")
    store.put("b", b"1234567890")
    assert await store.get("a") == b"1"
    assert await store.get("b") is None


async def test_replacing_and_expiring_give_their_bytes_back() -> None:
    clock = Clock()
    store = MemoryStore(max_bytes=2 * ENTRY_BYTES + 10, ttl=10, clock=clock)
    for _ in range(5):
        store.put("a", b"12345678")
    clock.now = 10
    assert await store.get("a") is None
    store.put("b", b"1234")
    store.put("c", b"1234")
    assert await store.get("b") == b"1234"
    assert await store.get("c") == b"1234"


async def test_no_memory_is_no_cache() -> None:
    cache, _, _ = memory_cache(cache_memory_bytes=0)
    await cache.get_or_compute("k", Work())
    assert await cache.get_or_compute("k", Work()) == (b"value", False)


# single flight


async def test_equal_requests_in_flight_are_computed_once() -> None:
    cache, metrics, _ = memory_cache()
    work = Work(open_=False)
    requests = [asyncio.create_task(cache.get_or_compute("k", work)) for _ in range(10)]
    other = Work(b"other")
    assert await cache.get_or_compute("l", other) == (b"other", False)
    work.gate.set()
    assert await asyncio.gather(*requests) == [(b"value", False)] * 10
    assert work.runs == 1
    assert count(metrics, "joined", "memory") == 9


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_one_that_leaves_does_not_disturb_the_others(leaver: int) -> None:
    cache, _, _ = memory_cache()
    work = Work(open_=False)
    requests = [asyncio.create_task(cache.get_or_compute("k", work)) for _ in range(3)]
    await work.started.wait()
    requests[leaver].cancel()
    with pytest.raises(asyncio.CancelledError):
        await requests[leaver]
    work.gate.set()
    requests.pop(leaver)
    assert await asyncio.gather(*requests) == [(b"value", False)] * 2
    assert (work.runs, work.cancelled) == (1, 0)
    assert (await cache.get_or_compute("k", work))[1]


async def test_the_last_to_leave_stops_the_computation() -> None:
    cache, _, _ = memory_cache()
    work = Work(open_=False)
    requests = [asyncio.create_task(cache.get_or_compute("k", work)) for _ in range(3)]
    await work.started.wait()
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    await until(lambda: work.cancelled)
    assert (await cache.get_or_compute("k", Work(b"new"))) == (b"new", False)


async def test_nobody_joins_a_computation_that_is_being_cancelled() -> None:
    cache, _, _ = memory_cache()
    stubborn = Work(open_=False)
    cleaned = asyncio.Event()

    async def compute() -> bytes:
        try:
            return await stubborn()
        finally:
            await cleaned.wait()

    request = asyncio.create_task(cache.get_or_compute("k", compute))
    await stubborn.started.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert await cache.get_or_compute("k", Work(b"new")) == (b"new", False)
    cleaned.set()
    await cache.close()
    assert await cache.get_or_compute("k", Work()) == (b"new", True)


async def test_a_failure_reaches_all_and_is_not_kept() -> None:
    cache, _, _ = memory_cache()
    gate = asyncio.Event()

    async def fail() -> bytes:
        await gate.wait()
        raise BadImage("No.")

    requests = [asyncio.create_task(cache.get_or_compute("k", fail)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(result) for result in results] == [BadImage] * 3
    assert await cache.get_or_compute("k", Work()) == (b"value", False)


async def test_closing_stops_what_is_computed_with_an_answer() -> None:
    cache, _, _ = memory_cache()
    work = Work(open_=False)
    request = asyncio.create_task(cache.get_or_compute("k", work))
    await work.started.wait()
    await cache.close()
    with pytest.raises(NotReady):
        await request
    assert work.cancelled == 1


# redis


async def test_redis_keeps_values_for_every_replica(redis_server: Any) -> None:
    one, metrics, _ = redis_cache(redis_server.url)
    value = bytes(range(256)) * 1000
    assert await one.get_or_compute("k", Work(value)) == (value, False)
    await one.close()
    other, _, _ = redis_cache(redis_server.url)
    assert await other.get_or_compute("k", Work(b"never")) == (value, True)
    await other.close()
    assert count(metrics, "miss") == 1


async def test_every_value_in_redis_has_a_time_to_live(redis_server: Any) -> None:
    cache, _, _ = redis_cache(redis_server.url)
    await cache.get_or_compute("k", Work())
    await cache.close()
    with redis_server.client() as client:
        assert client.keys() == [b"k"]
        assert 0 < client.ttl("k") <= 100


async def test_storing_does_not_delay_the_answer(redis_server: Any) -> None:
    cache, _, _ = redis_cache(redis_server.url, timeout=10 * LONG)

    async def compute() -> bytes:
        redis_server.freeze()
        return b"value"

    async with asyncio.timeout(LONG):
        assert await cache.get_or_compute("k", compute) == (b"value", False)
    redis_server.thaw()
    await cache.close()
    with redis_server.client() as client:
        assert Envelope().open("k", client.get("k")) == b"value"


async def test_a_frozen_redis_is_a_miss_then_skipped_then_back(redis_server: Any) -> None:
    cache, metrics, clock = redis_cache(redis_server.url, timeout=SHORT)
    redis_server.freeze()
    async with asyncio.timeout(LONG):
        assert await cache.get_or_compute("k", Work()) == (b"value", False)
        assert (count(metrics, "error"), count(metrics, "skipped")) == (1, 0)
        clock.now += BREAK_SECONDS - 0.1
        assert await cache.get_or_compute("k", Work()) == (b"value", False)
        assert (count(metrics, "error"), count(metrics, "skipped")) == (1, 1)
    redis_server.thaw()
    await until_hit(cache, clock)
    await cache.close()


async def test_a_killed_redis_is_a_miss_and_a_restarted_one_is_used_again(redis_server: Any) -> None:
    cache, metrics, clock = redis_cache(redis_server.url)
    await cache.get_or_compute("k", Work())
    redis_server.kill()
    clock.now += BREAK_SECONDS
    assert await cache.get_or_compute("k", Work(b"without redis")) == (b"without redis", False)
    assert count(metrics, "error") >= 1
    redis_server.start()
    await until_hit(cache, clock)
    await cache.close()


async def test_a_redis_that_restarted_unnoticed_costs_nothing(redis_server: Any) -> None:
    """Connections that the server closed are opened again, without an error and without a break."""
    cache, metrics, _ = redis_cache(redis_server.url)
    await cache.get_or_compute("k", Work())
    redis_server.kill()
    redis_server.start()
    with redis_server.client() as client:
        client.set("l", Envelope().seal("l", b"kept"))
    assert await cache.get_or_compute("l", Work()) == (b"kept", True)
    assert (count(metrics, "error"), count(metrics, "skipped")) == (0, 0)
    await cache.close()


async def test_a_full_redis_is_an_error_that_no_request_sees(redis_server: Any) -> None:
    cache, metrics, clock = redis_cache(redis_server.url)
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        assert await cache.get_or_compute("k", Work()) == (b"value", False)
        await until(lambda: count(metrics, "error") == 1)
        assert await cache.get_or_compute("k", Work()) == (b"value", False)
        assert count(metrics, "skipped") == 1
        client.config_set("maxmemory", 0)
    await until_hit(cache, clock)
    await cache.close()


SEALED = Envelope().seal("k", b"value")
FOREIGN: dict[str, bytes] = {
    "garbage": b"\x00\xff garbage",
    "plausible": b'{"log_likelihood": 99}',
    "of_an_older_service": b"value",
    "too_large_by_a_byte": Envelope().seal("k", bytes(MAX_VALUE_BYTES + 1)),
    "cut": SEALED[:-1],
    "without_a_value": SEALED[:10],
    "longer": SEALED + b"!",
    "a_bit_flipped": SEALED[:-1] + bytes([SEALED[-1] ^ 1]),
    "another_format": SEALED.replace(b"vamp\x01", b"vamp\x02"),
    "moved_from_another_key": Envelope().seal("l", b"value"),
    "another_secret": Envelope("other").seal("k", b"value"),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
async def test_a_value_that_this_service_did_not_write_is_replaced(redis_server: Any, foreign: bytes) -> None:
    cache, metrics, _ = redis_cache(redis_server.url)
    with redis_server.client() as client:
        client.set("k", foreign)
        assert await cache.get_or_compute("k", Work(b"right")) == (b"right", False)
        assert (count(metrics, "corrupt"), count(metrics, "miss"), count(metrics, "error")) == (1, 0, 0)
        await until(lambda: client.get("k") != foreign)
        assert await cache.get_or_compute("k", Work()) == (b"right", True)
        assert 0 < client.ttl("k") <= 100
    assert (count(metrics, "corrupt"), count(metrics, "hit")) == (1, 1)
    await cache.close()


async def test_an_empty_value_is_a_miss_and_is_replaced(redis_server: Any) -> None:
    cache, metrics, _ = redis_cache(redis_server.url)
    with redis_server.client() as client:
        client.set("k", b"")
        assert await cache.get_or_compute("k", Work(b"right")) == (b"right", False)
        assert (count(metrics, "miss"), count(metrics, "error")) == (1, 0)
        await until(lambda: client.get("k"))
        assert await cache.get_or_compute("k", Work()) == (b"right", True)
    await cache.close()


async def test_a_huge_value_is_replaced_and_not_read_to_its_end(redis_server: Any) -> None:
    cache, metrics, _ = redis_cache(redis_server.url)
    with redis_server.client() as client:
        client.set("k", b"vamp\x01" + bytes(100_000_000))
        before = client.info("stats")["total_net_output_bytes"]
        await cache.get_or_compute("k", Work())
        assert client.info("stats")["total_net_output_bytes"] - before < 2 * MAX_VALUE_BYTES
        await until(lambda: client.strlen("k") < 100)
    assert (count(metrics, "corrupt"), count(metrics, "error")) == (1, 0)
    await cache.close()


async def test_the_largest_value_is_stored_and_a_larger_one_is_not(redis_server: Any) -> None:
    cache, metrics, _ = redis_cache(redis_server.url)
    largest = bytes(MAX_VALUE_BYTES)
    await cache.get_or_compute("largest", Work(largest))
    await cache.get_or_compute("larger", Work(largest + b"1"))
    await cache.close()  # waits for what is being stored
    with redis_server.client() as client:
        assert client.keys() == [b"largest"]
    again, _, _ = redis_cache(redis_server.url)
    assert await again.get_or_compute("largest", Work()) == (largest, True)
    assert count(metrics, "error") == 0
    await again.close()


async def test_a_value_of_another_kind_is_replaced(redis_server: Any) -> None:
    cache, metrics, _ = redis_cache(redis_server.url)
    with redis_server.client() as client:
        client.rpush("k", "not ours")
        assert await cache.get_or_compute("k", Work()) == (b"value", False)
        await until(lambda: client.type("k") == b"string")
        assert await cache.get_or_compute("k", Work()) == (b"value", True)
    assert (count(metrics, "corrupt"), count(metrics, "error")) == (1, 0)
    await cache.close()


async def test_with_a_secret_only_values_written_with_it_are_taken(redis_server: Any) -> None:
    with redis_server.client() as client:
        client.set("k", Envelope().seal("k", b"forged"))
    one, metrics, _ = redis_cache(redis_server.url, secret="hunter2")
    assert await one.get_or_compute("k", Work()) == (b"value", False)
    assert count(metrics, "corrupt") == 1
    await one.close()
    other, _, _ = redis_cache(redis_server.url, secret="hunter2")
    assert await other.get_or_compute("k", Work(b"never")) == (b"value", True)
    await other.close()


async def test_a_redis_that_refuses_is_a_miss(redis_server: Any) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", "hunter2")
    cache, metrics, _ = redis_cache(redis_server.url)
    assert await cache.get_or_compute("k", Work()) == (b"value", False)
    assert count(metrics, "error") == 1
    await cache.close()


async def test_what_is_not_redis_is_a_miss() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        cache, metrics, _ = redis_cache(f"redis://127.0.0.1:{port}")
        assert await cache.get_or_compute("k", Work()) == (b"value", False)
        assert count(metrics, "error") == 1
        await cache.close()


async def test_a_cancelled_look_up_spoils_no_other(redis_server: Any) -> None:
    with redis_server.client() as client:
        client.set("a", Envelope().seal("a", b"A"))
        client.set("b", Envelope().seal("b", b"B"))
    cache, _, _ = redis_cache(redis_server.url)
    assert await cache.get_or_compute("a", Work()) == (b"A", True)
    redis_server.freeze()
    request = asyncio.create_task(cache.get_or_compute("a", Work()))
    for _ in range(100):
        await asyncio.sleep(0)  # far enough to have sent its question
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    redis_server.thaw()
    assert await cache.get_or_compute("b", Work()) == (b"B", True)
    await cache.close()


async def test_stores_under_way_are_bounded(redis_server: Any) -> None:
    store = RedisStore(redis_server.url, 100, LONG, Metrics(), Clock(), Envelope())
    for index in range(MAX_STORES + 10):
        store.put(str(index), b"value")
    await store.close()
    with redis_server.client() as client:
        assert client.dbsize() == MAX_STORES


async def test_closing_does_not_wait_for_a_frozen_redis(redis_server: Any) -> None:
    cache, metrics, _ = redis_cache(redis_server.url, timeout=SHORT)

    async def compute() -> bytes:
        redis_server.freeze()
        return b"value"

    async with asyncio.timeout(LONG):
        await cache.get_or_compute("k", compute)
        await cache.close()
    assert count(metrics, "error") >= 1


async def until_hit(cache: Cache, clock: Clock) -> None:
    """Let breaks pass until the cache answers from Redis again."""
    give_up = time.monotonic() + 60
    while not (await cache.get_or_compute("back", Work()))[1]:
        assert time.monotonic() < give_up, "redis was not used again within a minute"
        clock.now += BREAK_SECONDS
        await asyncio.sleep(0.01)
