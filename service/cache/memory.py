"""Values in the memory of the process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["MemoryStore"]

ENTRY_BYTES = 256  # what Python takes for an entry in memory besides the characters of its key and value


class MemoryStore:
    """At most `max_bytes` of entries, each for `ttl` seconds; the longest unused leave first."""

    name = "memory"

    def __init__(self, max_bytes: int, ttl: float, clock: Callable[[], float]) -> None:
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
