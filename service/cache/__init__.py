"""A cache of deterministic answers, in memory or in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.cache.envelope import Envelope
from service.cache.keys import cache_key
from service.cache.memory import MemoryStore
from service.cache.redis_store import RedisStore
from service.cache.single_flight import Cache
from service.metrics import Metrics
from service.settings import Settings

__all__ = ["Cache", "cache_key", "create_cache"]


def create_cache(settings: Settings, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> Cache:
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
